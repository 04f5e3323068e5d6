"""The loop's watchdog, on a loop that a test holds still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from flujo_client.protocol.scripts import Scripts
from flujo_worker.attempt import Attempt
from flujo_worker.watchdog import LoopWatchdog


class _Told:
    """Stands for scripts, and for an attempt: tells which claims were left."""

    def __init__(self) -> None:
        self.left: list[str] = []

    async def leave(self, claim: str, usage: dict[str, int]) -> bool:
        self.left.append(claim)
        return True


class _Neighbour:
    """Stands for an attempt."""

    claim = "neighbour"

    def __init__(self) -> None:
        self.used: dict[str, int] = {}

    @property
    def meter(self) -> _Neighbour:
        return self


class _Loop:
    """A loop in a thread of its own, with a watchdog of two checks."""

    def __init__(self, besides: Callable[[Any], Any]) -> None:
        self.left = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.dog = self.run(self._make(besides))

    async def _make(self, besides: Callable[[Any], Any]) -> LoopWatchdog:
        return LoopWatchdog(2, besides, self.left.set)

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def check(self, told: _Told) -> None:
        asyncio.run(self.dog.check(cast(Scripts, told)))


Make = Callable[[Callable[[Any], Any]], _Loop]


@pytest.fixture
def make_loop() -> Iterator[Make]:
    made: list[_Loop] = []

    def make(besides: Callable[[Any], Any]) -> _Loop:
        made.append(_Loop(besides))
        return made[-1]

    yield make
    for loop in made:
        loop.loop.call_soon_threadsafe(loop.loop.stop)
        loop.thread.join()
        loop.loop.close()


def test_a_loop_that_stands_still_is_left_and_its_neighbours_handed_over(make_loop: Make) -> None:
    told, release, entered = _Told(), threading.Event(), threading.Event()
    found: list[asyncio.Task[Any]] = []

    def besides(task: asyncio.Task[Any]) -> list[Attempt]:
        found.append(task)
        return [cast(Attempt, _Neighbour())]

    loop = make_loop(besides)

    async def block() -> None:
        entered.set()
        release.wait()

    blocked = asyncio.run_coroutine_threadsafe(block(), loop.loop)
    entered.wait()
    loop.check(told)  # there were beats before
    loop.check(told)
    assert not loop.left.is_set()
    loop.check(told)
    release.set()
    blocked.result(10)

    assert loop.left.is_set()
    assert told.left == ["neighbour"]
    assert found[0].get_coro().__name__ == "block"  # type: ignore[union-attr]


def test_nobody_is_handed_over_where_it_is_not_known_who_blocks(make_loop: Make) -> None:
    told, release, entered = _Told(), threading.Event(), threading.Event()
    loop = make_loop(lambda task: None)

    def block() -> None:
        entered.set()
        release.wait()

    loop.loop.call_soon_threadsafe(block)
    entered.wait()
    for _ in range(3):
        loop.check(told)
    release.set()

    assert loop.left.is_set()
    assert told.left == []


def test_a_loop_that_goes_on_is_let_be(make_loop: Make) -> None:
    told = _Told()
    loop = make_loop(lambda task: [])

    async def beats() -> None:
        await asyncio.sleep(0.25)

    for _ in range(4):
        loop.run(beats())
        loop.check(told)

    assert not loop.left.is_set()
