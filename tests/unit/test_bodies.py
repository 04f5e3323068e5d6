"""`SyncBodies`: a body never waits for a thread, and nothing that a thread raises is lost."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flujo_worker.attempt import Attempt
from flujo_worker.bodies import SyncBodies

TIMEOUT_S = 30.0
SLOTS = 8


def an_attempt() -> Attempt:
    """As far as the threads look at it."""
    return cast("Attempt", SimpleNamespace(ids={}, in_thread=False))


async def hung(bodies: SyncBodies, release: threading.Event) -> None:
    """A body that was timed out and hangs."""
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait(TIMEOUT_S)

    body = asyncio.create_task(bodies.run(an_attempt(), hang))
    await asyncio.wait_for(started.wait(), TIMEOUT_S)
    body.cancel()
    with pytest.raises(asyncio.CancelledError):
        await body


async def test_a_body_never_waits_for_a_thread_before_the_process_must_be_replaced() -> None:
    exhausted: list[int] = []
    bodies, release = SyncBodies(SLOTS, lambda: exhausted.append(bodies.abandoned)), threading.Event()
    for _ in range(SLOTS - 1):
        await hung(bodies, release)
    assert exhausted == []

    together = threading.Barrier(SLOTS)
    all_slots = [bodies.run(an_attempt(), together.wait, TIMEOUT_S) for _ in range(SLOTS)]
    await asyncio.wait_for(asyncio.gather(*all_slots), TIMEOUT_S)

    await hung(bodies, release)
    assert exhausted == [SLOTS]
    release.set()
    bodies.close()


async def test_a_body_that_was_cancelled_before_it_began_never_runs() -> None:
    bodies, release, ran = SyncBodies(1, lambda: None), threading.Event(), threading.Event()
    blocked = [asyncio.create_task(bodies.run(an_attempt(), release.wait, TIMEOUT_S)) for _ in range(2)]
    waiting = asyncio.create_task(bodies.run(an_attempt(), ran.set))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    release.set()
    await asyncio.gather(*blocked)

    assert bodies.abandoned == 0
    await bodies.run(an_attempt(), lambda: None)
    assert not ran.is_set()
    bodies.close()


async def test_a_body_sees_its_tasks_context_variables() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    bodies = SyncBodies(1, lambda: None)
    variable.set("the task's")

    assert await bodies.run(an_attempt(), variable.get) == "the task's"
    bodies.close()


async def test_a_body_that_runs_out_of_an_iterator_fails_and_does_not_hang() -> None:
    bodies = SyncBodies(1, lambda: None)
    nothing: Any = iter(())

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(bodies.run(an_attempt(), next, nothing), TIMEOUT_S)
    bodies.close()
