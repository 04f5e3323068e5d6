"""Health is progress: what moves, what stands still, what is told over HTTP, and what follows."""

from __future__ import annotations

import itertools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flujo_client.cli.redis_server import free_port
from flujo_client.protocol import health
from flujo_client.protocol.errors import SettingsError
from flujo_client.protocol.health import LOOK_EVERY_S, HealthKeeper, Progress
from flujo_worker.signs import ConsumerSigns
from flujo_worker.transport import GuardedTransport


def _looks(seconds: float) -> int:
    return round(seconds / LOOK_EVERY_S)


def test_only_what_stands_still_for_longer_than_it_may_is_late() -> None:
    turning, standing = itertools.count(), [7]
    progress = Progress({"loop": lambda: next(turning), "broker": lambda: standing[0]}, patience_s=2.0)

    for _ in range(_looks(2.0)):
        progress.look()
    assert progress.late() == []
    progress.look()

    assert (progress.late(), progress.late(mercy_s=1.0)) == (["broker"], [])
    assert progress.still_s() == {"loop": 0.0, "broker": 2.5}
    standing[0] += 1
    progress.look()
    assert (progress.late(), progress.still_s()["broker"]) == ([], 0.0)


class _Kept:
    """A keeper whose one sign a test moves."""

    def __init__(self, patience_s: float) -> None:
        self.moved = 0
        self.left = threading.Event()
        self.progress = Progress({"loop": lambda: self.moved}, patience_s)
        self.keeper = HealthKeeper("worker", self.progress, free_port(), self.left.set)

    def ask(self, path: str = "/healthz") -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.keeper.port}{path}", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error) if error.code == 503 else {}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Kept]:
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.01)
    made = _Kept(patience_s=0.05)
    made.keeper.start()
    yield made
    made.keeper.stop()


def test_a_process_that_makes_no_progress_says_so_and_leaves_once(kept: _Kept) -> None:
    assert kept.left.wait(30)

    code, said = kept.ask()
    assert (code, said["ending"]) == (200, True)  # it is ending already: nobody needs to kill it


def test_the_answer_says_what_stands_still() -> None:
    made = _Kept(patience_s=1.0)
    made.keeper.start()
    healthy = made.ask()
    for _ in range(_looks(2.0)):
        made.progress.look()

    code, said = made.ask()

    assert healthy[0] == 200
    assert (code, said["healthy"], said["role"], said["late"]) == (503, False, "worker", ["loop"])
    assert made.ask("/elsewhere")[0] == 404
    made.moved += 1
    made.progress.look()
    assert made.ask()[0] == 200
    made.keeper.stop()


def test_a_process_that_ends_is_not_judged(kept: _Kept) -> None:
    kept.keeper.rest()
    for _ in range(2_000):
        kept.progress.look()

    assert kept.ask()[0] == 200
    assert not kept.left.is_set()


def test_without_a_port_it_looks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOOK_EVERY_S", 0.01)
    left = threading.Event()
    keeper = HealthKeeper("manager", Progress({"sweep": lambda: 0}, 0.05), None, left.set)
    keeper.start()

    assert keeper.port is None
    assert left.wait(30)
    keeper.forked()
    keeper.stop()


def test_a_port_that_another_has_is_one_clear_error() -> None:
    first = _Kept(1.0)

    with pytest.raises(SettingsError, match=rf"FLUJO_HEALTH_PORT: nothing can listen on port {first.keeper.port}"):
        HealthKeeper("worker", first.progress, first.keeper.port, first.left.set)
    first.keeper.forked()
    HealthKeeper("worker", first.progress, first.keeper.port, first.left.set).forked()  # a child held on to nothing


class TestConsumerSigns:
    def test_a_consumer_that_waits_is_heard_and_one_that_does_not_is_not(self) -> None:
        signs, consumer = self._attached(can_take=True, busy=False)
        before = signs.heard
        consumer.hub.turn()
        assert (signs.turns, signs.heard) == (1, before)

        consumer.connection.transport.heard += 1
        assert signs.heard != before

    @pytest.mark.parametrize(("busy", "excused"), [(True, True), (False, False)])
    def test_one_without_a_free_slot_is_excused_only_if_something_runs(self, busy: bool, excused: bool) -> None:
        signs, consumer = self._attached(can_take=False, busy=busy)
        before = signs.heard

        consumer.hub.turn()

        assert (signs.heard != before) is excused

    def test_one_that_tries_to_reach_its_broker_is_not_deaf(self) -> None:
        signs = ConsumerSigns()
        before = signs.turns, signs.heard

        signs.trying()

        assert before[0] != signs.turns
        assert before[1] != signs.heard

    def test_on_another_broker_the_turns_count(self) -> None:
        signs, consumer = self._attached(can_take=True, busy=False)
        consumer.connection = SimpleNamespace(transport=object())
        before = signs.heard

        consumer.hub.turn()

        assert signs.heard != before

    def _attached(self, *, can_take: bool, busy: bool) -> tuple[ConsumerSigns, Any]:
        ticks: set[Any] = set()
        hub = SimpleNamespace(on_tick=ticks, turn=lambda: [tick() for tick in ticks])
        transport = GuardedTransport.__new__(GuardedTransport)
        channel = SimpleNamespace(qos=SimpleNamespace(can_consume=lambda: can_take))
        consumer = SimpleNamespace(
            hub=hub,
            connection=SimpleNamespace(transport=transport),
            task_consumer=SimpleNamespace(channel=channel),
        )
        signs = ConsumerSigns()
        signs.attach(consumer, lambda: busy)
        signs.attach(consumer, lambda: busy)  # again after a reconnect
        return signs, consumer
