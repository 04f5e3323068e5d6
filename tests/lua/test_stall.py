"""Redis stands still for longer than a lease lasts: nobody died of it, whoever speaks first afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import redis

from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import LEASE_TTL_MS, POOL, Keyspace
from flujo_client.protocol.replies import Claim, Committed, Renewal, Reserved, SweepPage, WorkerDead
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.runs import a_dispatch, commit_claim, new_claim, started_run, sweep_page

STALL_S = 4.0


async def _held(scripts: Scripts) -> Claim:
    """A lease of w1, which was alive a moment ago, as the sweep was."""
    await started_run(scripts, a_dispatch("0"), a_dispatch("1"))
    await _sweep(scripts)
    await scripts.register("incarnations", "w1", LEASE_TTL_MS, 0)
    claim = new_claim()
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    return claim


async def _sweep(scripts: Scripts, gap_ms: int = 2000) -> SweepPage:
    page = await sweep_page(scripts, gap_ms=gap_ms)
    assert page is not None
    return page


async def _renews(scripts: Scripts) -> None:
    assert isinstance(await scripts.renew("w1", LEASE_TTL_MS, 0), Renewal)


async def _reserves(scripts: Scripts) -> None:
    assert isinstance(await scripts.reserve(new_claim("1"), POOL), Reserved)


async def _is_swept(scripts: Scripts) -> None:
    assert (await _sweep(scripts)).dead_incarnations == []


async def test_after_a_stall_of_redis_every_lease_is_alive(tmp_path: Path) -> None:
    orders: list[list[Callable[[Scripts], Awaitable[None]]]] = [
        [_renews, _is_swept],
        [_is_swept, _renews],
        [_reserves, _is_swept, _renews],
    ]
    with RedisServer(tmp_path) as server:
        assert server.process is not None
        wire = Wire(server.url)
        clients = [Scripts(ScriptCaller(wire), Keyspace(f"order{number}")) for number in range(len(orders))]
        claims = [await _held(scripts) for scripts in clients]

        os.kill(server.process.pid, signal.SIGSTOP)
        await asyncio.sleep(STALL_S)
        os.kill(server.process.pid, signal.SIGCONT)

        for scripts, claim, order in zip(clients, claims, orders, strict=True):
            for speaks in order:
                await speaks(scripts)
            assert not await scripts.lose(claim, POOL, "died", {})
            assert await commit_claim(scripts, claim) == Committed({})
        await wire.close()


async def test_who_renews_between_the_sweep_and_its_burial_lives_on(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    assert (await _sweep(scripts)).dead_incarnations == ["w1"]

    await _renews(scripts)

    assert not await scripts.lose(claim, POOL, "died", {})
    assert not await scripts.bury("incarnations", "w1", 0)
    assert await commit_claim(scripts, claim) == Committed({})
    assert not await scripts.bury("incarnations", "w1", 0)


async def test_the_dead_are_buried_when_their_last_lease_is_lost(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    assert not await scripts.bury("incarnations", "w1", 0)
    assert await scripts.lose(claim, POOL, "died", {})
    assert await scripts.bury("incarnations", "w1", 0)

    assert await scripts.renew("w1", LEASE_TTL_MS, 0) == WorkerDead()
    assert await scripts.reserve(new_claim("1"), POOL) == WorkerDead()
    assert not await scripts.bury("incarnations", "w1", 0)


@pytest.mark.parametrize("first", ["reserve", "bury"])
async def test_a_reservation_and_a_burial_leave_no_lease_that_nobody_finds(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, each_redis_url: str, first: str
) -> None:
    other = Wire(each_redis_url)
    sweeper = Scripts(ScriptCaller(other), keyspace)
    for _ in range(10):
        for key in plain_redis.scan_iter(match=f"{{{keyspace.namespace}:*"):
            plain_redis.delete(key)
        await started_run(scripts, a_dispatch("0"))
        plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

        calls: list[Awaitable[object]] = [scripts.reserve(new_claim(), POOL), sweeper.bury("incarnations", "w1", 0)]
        answers = await asyncio.gather(*(calls if first == "reserve" else reversed(calls)))

        assert (True in answers) == (WorkerDead() in answers)
        assert bool(plain_redis.zcard(keyspace.held("w1", 0))) == (True not in answers)
        assert (plain_redis.zscore(keyspace.shard("incarnations"), "w1") is None) == (True in answers)
    await other.close()
