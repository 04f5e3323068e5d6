"""Faults between processes: partitions, messages repeated and late, odd payloads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import redis.asyncio as aioredis

from flujo_client.protocol.queues import broker_queue
from tests.faults.proxy import Link
from tests.faults.rounds import Round
from tests.faults.workload import ANYWHERE, FAR

__all__ = ["WIRE_FAULTS"]


async def cut_worker_off(this: Round) -> None:
    """One worker reaches Redis through a bad link: slow, one-way, dead, or reset after each command."""
    link = Link(this.arena.fleet.server.port)
    async with link.listening():
        worker = this.arena.worker(FAR, FLUJO_URL=link.url(0), **_broker_behind(this, link))
        this.paused.add(worker.pid)
        try:
            await this.arena.at_work(worker)
            await this.load(queue=FAR, held=4, free=6)
            this.how = how = this.chance.choice(("slow", "one-way", "dead", "reset"))
            if how == "slow":
                link.delay_s = 0.5
            elif how == "one-way":
                link.down = False
            elif how == "dead":
                link.up = link.down = False
            else:
                link.cut_after_send = True
            if this.chance.random() < 0.5:
                this.open_gates()
            await asyncio.sleep(1.5 + this.chance.random() * 3)
            link.heal()
            await this.hears([worker.pid], FAR)
            await this.all_end()
        finally:
            worker.terminate()
            await asyncio.to_thread(worker.wait)


def _broker_behind(this: Round, link: Link) -> dict[str, str]:
    """The way to the broker, where it is the same server."""
    database = this.arena.broker.database
    return {} if database is None else {"FLUJO_BROKER_URL": link.url(database)}


async def repeat_messages(this: Round) -> None:
    """Every message arrives up to five times, in another order, some of them after the run's end."""
    broker = aioredis.Redis.from_url(this.arena.broker.url)
    queue, seen = broker_queue("flujo", ANYWHERE), list[bytes]()
    repeating = asyncio.create_task(_repeat(this, queue, seen))
    try:
        await asyncio.sleep(0.1)
        await this.load(held=3, free=9)
        await this.all_end()
        this.chance.shuffle(seen)
        assert seen, "messages were seen"
        await broker.lpush(queue, *seen)  # long after everything has ended

        async def taken() -> bool:
            return not await broker.llen(queue)

        await this.until(taken, "the late copies are taken")
    finally:
        repeating.cancel()
        await asyncio.gather(repeating, return_exceptions=True)
        await broker.aclose()


async def _repeat(this: Round, queue: str, seen: list[bytes]) -> None:
    """Watch what is pushed, and push it again later."""
    watcher = aioredis.Redis.from_url(this.arena.broker.url, socket_timeout=None)
    pusher = aioredis.Redis.from_url(this.arena.broker.url)
    later: set[asyncio.Task[None]] = set()

    async def again(message: bytes, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await pusher.rpush(queue, message)  # RPUSH overtakes all that wait

    try:
        async with watcher.monitor() as monitor:
            async for command in monitor.listen():
                for message in _pushed(command["command"], queue):
                    seen.append(message)
                    for _ in range(this.chance.randrange(1, 5)):
                        task = asyncio.create_task(again(message, this.chance.random() * 2))
                        later.add(task)
                        task.add_done_callback(later.discard)
    finally:
        for task in later:
            task.cancel()
        await watcher.aclose()
        await pusher.aclose()


def _pushed(words: str, queue: str) -> Iterator[bytes]:
    """The messages that a manager, or a commit, pushes into a queue with one command."""
    rest = words.removeprefix(f"LPUSH {queue} ") if words.startswith(f"LPUSH {queue} ") else ""
    while rest:
        _, length = json.JSONDecoder().raw_decode(rest)
        yield rest[:length].encode()
        rest = rest[length:].lstrip()


WIRE_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F8": ("a worker partitioned from Redis", cut_worker_off),
    "F9": ("messages repeated, reordered and late", repeat_messages),
}
