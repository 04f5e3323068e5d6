"""Faults of Redis: killed with and without a lost tail, stalled, restarted, full, emptied of messages."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis

from tests.faults.rounds import Round

__all__ = ["REDIS_FAULTS"]


async def kill_redis(this: Round) -> None:
    """With `appendfsync always` nothing that was answered is lost; with `everysec` the tail may be."""
    this.how = how = this.chance.choice(("always", "everysec"))
    await this.client.client.config_set("appendfsync", how)
    await this.load()
    server = this.arena.fleet.server
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    if how == "everysec":  # what was not on disk when the machine failed: a second of it at the most
        this.tail_lost = this.submit_again = True
        _cut_tail(server.folder, this.chance.randrange(0, 60_000))
    await asyncio.sleep(this.chance.random())
    server.start()
    await this.nobody_is_deaf()


def _cut_tail(folder: Path, most_bytes: int) -> None:
    """Lose the end of the append-only file, wherever it falls; but not what the arena itself was made of."""
    files = [*folder.glob("appendonlydir/*.incr.aof"), *folder.glob("appendonly.aof")]
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    size = newest.stat().st_size
    os.truncate(newest, max(size - most_bytes, size * 3 // 4))


async def stall_redis(this: Round) -> None:
    """Stopped, paused, or all of its clients thrown out, under load."""
    await this.load()
    client = this.client.client
    this.how = how = this.chance.choice(("sleep", "kill", "pause", "stop", "restart"))
    if how == "sleep":
        asleep = asyncio.create_task(_sleep(this, 3 + this.chance.random() * 2))
        await asyncio.sleep(0.05)
        this.open_gates()
        await asleep
    elif how == "kill":
        for _ in range(3):
            await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(this.chance.random() * 0.3)
    elif how == "pause":
        await client.execute_command("CLIENT", "PAUSE", 4000, "ALL")
    elif how == "stop":
        await _stop_and_go(this, 3 + this.chance.random() * 2)
    else:
        this.arena.fleet.server.stop()
        await asyncio.sleep(this.chance.random() * 2)
        this.arena.fleet.server.start()
    this.open_gates()
    await this.nobody_is_deaf()


async def _sleep(this: Round, seconds: float) -> None:
    own: Any = aioredis.Redis.from_url(this.arena.fleet.url, socket_timeout=None)
    try:
        with suppress(aioredis.ResponseError):  # servers may forbid DEBUG
            await own.execute_command("DEBUG", "SLEEP", f"{seconds:.1f}")
            return
        await _stop_and_go(this, seconds)
    finally:
        await own.aclose()


async def _stop_and_go(this: Round, seconds: float) -> None:
    process = this.arena.fleet.server.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(process.pid, signal.SIGCONT)


async def fill_redis(this: Round) -> None:
    """No memory for any write, for a while; then there is."""
    await this.load()
    client = this.client.client
    used = int((await client.info("memory"))["used_memory"])
    await client.config_set("maxmemory", max(1, used - 100_000))
    this.open_gates()
    try:
        await asyncio.sleep(1 + this.chance.random() * 2)
    finally:
        await client.config_set("maxmemory", 0)


async def lose_messages(this: Round) -> None:
    """FLUSHDB of the broker's database, or its lists beside the runs are dropped; the runs stay."""
    await this.load(held=2, free=18)
    for _ in range(60):  # whatever is in a queue for more than a few ms is lost
        await this.lose_messages()
        await asyncio.sleep(this.chance.random() * 0.02)


REDIS_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F5": ("kill -9 of Redis, its tail lost or not", kill_redis),
    "F6": ("Redis restarted, stalled, paused; its clients killed", stall_redis),
    "F14": ("Redis at maxmemory", fill_redis),
    "F21": ("every message that waits is lost, again and again", lose_messages),
}
