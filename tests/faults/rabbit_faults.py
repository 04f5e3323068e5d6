"""Faults that RabbitMQ has in its own way: it goes away and comes back; messages are repeated by whoever reads the journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.publisher import KombuPublisher
from tests.faults.brokers import RabbitBroker
from tests.faults.rounds import Round
from tests.faults.workload import ANYWHERE

__all__ = ["RABBIT_FAULTS"]


async def restart_the_broker(this: Round) -> None:
    """Every connection is reset and none is accepted for a while, up to three times, while runs flow."""
    broker = this.arena.broker
    assert isinstance(broker, RabbitBroker)
    await this.load()
    for _ in range(this.chance.randrange(1, 4)):
        broker.go_away()
        await asyncio.sleep(this.chance.random() * 2)
        if this.chance.random() < 0.5:
            this.open_gates()
        await asyncio.to_thread(broker.come_back)
        await asyncio.sleep(this.chance.random())
    await this.nobody_is_deaf()


async def repeat_messages(this: Round) -> None:
    """Each dispatch that is journalled is published up to four times more, later; all of them once more after the end."""
    broker = this.arena.broker
    publisher = KombuPublisher(broker.url, broker.namespace)
    seen: dict[str, StepMessage] = {}
    over = asyncio.Event()
    repeating = asyncio.create_task(_repeat(this, publisher, seen, over))
    try:
        await this.load(held=3, free=9)
        await this.all_end()
        late = list(seen.values())
        this.chance.shuffle(late)
        assert late, "messages were seen"
        await publisher.publish([publisher.prepare(message) for message in late])

        async def taken() -> bool:
            return not await broker.waiting(ANYWHERE)

        await this.until(taken, "the late copies are taken")
    finally:
        over.set()  # redis-py may swallow a cancellation, and the task would go on for ever
        await asyncio.gather(repeating, return_exceptions=True)
        await publisher.close()


async def _repeat(this: Round, publisher: KombuPublisher, seen: dict[str, StepMessage], over: asyncio.Event) -> None:
    later: set[asyncio.Task[None]] = set()

    async def again(message: StepMessage, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await publisher.publish([publisher.prepare(message)])

    key = this.client.keyspace.shard("dispatches")
    try:
        while not over.is_set():
            for member in await this.client.client.zrange(key, 0, -1):
                name = member.decode()
                if name in seen:
                    continue
                with suppress(KeyError):
                    seen[name] = await _message(this, name)
                    for _ in range(this.chance.randrange(1, 5)):
                        task = asyncio.create_task(again(seen[name], this.chance.random() * 2))
                        later.add(task)
                        task.add_done_callback(later.discard)
            await asyncio.sleep(0.01)
    finally:
        for task in later:
            task.cancel()


async def _message(this: Round, member: str) -> StepMessage:
    """The message of a dispatch, as its manager publishes it. Raises `KeyError` if its run is gone."""
    run_id, path, attempt, queue = member.split(" ")
    attempts = await this.client.client.hgetall(this.client.keyspace.run(run_id).attempts)
    task = json.loads(attempts[f"{path}|task".encode()])
    function = task["step"]["function"]
    ref = StepRef(run_id=run_id, path=path, attempt=int(attempt), function=function, owner="pool")
    return StepMessage(queue=queue, steps=(ref,))


RABBIT_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F9": ("messages repeated and late", repeat_messages),
    "F23": ("the broker restarts under load", restart_the_broker),
}
