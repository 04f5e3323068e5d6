"""`Incarnation` and `LeaseKeeper`: one process has one name at a time, and what is leased under it is renewed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.replies import Renewal, WorkerDead
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from flujo_worker.lease import Incarnation, LeaseKeeper

TIMEOUT_S = 30.0


class _Watched(Scripts):
    """Calls back before each renewal, and tells when another name than the first is renewed on all shards."""

    def __init__(self, wire: Wire, keyspace: Keyspace, first: str, before: Callable[[int], None]) -> None:
        super().__init__(ScriptCaller(wire), keyspace)
        self._first = first
        self._before = before
        self.renewed = threading.Event()

    async def renew(self, incarnation: str, ttl_ms: int, shard: int) -> Renewal | WorkerDead:
        self._before(shard)
        answer = await super().renew(incarnation, ttl_ms, shard)
        if incarnation != self._first and shard == self.keyspace.shards - 1 and isinstance(answer, Renewal):
            self.renewed.set()
        return answer


async def _nothing(scripts: Scripts) -> None:
    """Nobody watches."""


def _must_not_end() -> None:
    raise AssertionError("the thread ended by itself")


def test_of_many_who_find_a_process_dead_one_renames_it() -> None:
    incarnation = Incarnation()
    dead, barrier = incarnation.id, threading.Barrier(8)
    names: list[str] = []

    def find_dead() -> None:
        barrier.wait(TIMEOUT_S)
        incarnation.renamed(dead)
        names.append(incarnation.id)

    threads = [threading.Thread(target=find_dead) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert set(names) == {incarnation.id}
    assert incarnation.id != dead


async def test_a_name_taken_during_a_renewal_is_kept(redis_url: str) -> None:
    keyspace, incarnation, buried = Keyspace("lease", shards=2), Incarnation(), threading.Event()
    first, taken = incarnation.id, ""
    clients: list[_Watched] = []

    def rename_between_shards(shard: int) -> None:
        """What the coordinator does, on its own thread, when a reservation finds the name buried."""
        nonlocal taken
        if shard == 0 and not buried.is_set():
            incarnation.renamed(first)
            taken = incarnation.id
            buried.set()

    def connect() -> tuple[Scripts, Callable[[], Any]]:
        wire = Wire(redis_url)
        clients.append(_Watched(wire, keyspace, first, rename_between_shards))
        return clients[0], wire.close

    keeper = LeaseKeeper(connect, incarnation, keyspace.shards, ["m:f"], _must_not_end, _nothing)
    keeper.start()
    assert await asyncio.to_thread(buried.wait, TIMEOUT_S)
    assert await asyncio.to_thread(clients[0].renewed.wait, TIMEOUT_S)
    await asyncio.to_thread(keeper.stop)

    assert incarnation.id == taken
    wire = Wire(redis_url)
    for shard in range(keyspace.shards):
        assert await wire.execute("ZSCORE", keyspace.shard("incarnations", shard), taken) is not None
        await wire.execute("DEL", keyspace.shard("incarnations", shard))
    await wire.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lease_that_ends_by_itself_is_told() -> None:
    ended = threading.Event()

    def faulty() -> tuple[Scripts, Callable[[], Any]]:
        raise LookupError("a fault of ours")

    keeper = LeaseKeeper(faulty, Incarnation(), 1, [], ended.set, _nothing)

    keeper.start()

    assert ended.wait(TIMEOUT_S)
    keeper.stop()
    assert not keeper.alive
