"""Ten thousand items on real workers: every output, and never more steps under way than the map's limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from flujo_client import AsyncFlujoClient, RunStatus
from flujo_client.protocol.queues import DEFAULT_QUEUE, broker_queue
from tests.integration.conftest import Fleet
from tests.integration.control_flow import MANY_AT_ONCE

ITEMS = 10_000

#: It takes some 40 s of CPU in all: 70 s beside other work on two cores.
TIMEOUT_S = 300

#: Between two looks at the queue, s.
PACE_S = 0.05


@dataclass
class Most:
    """The most that was seen at once.

    Attributes:
        messages: In the broker's queue; one may carry several steps, and one that is late is published again.
        under_way: Steps that are journalled and not taken, or leased.
        looks: How often somebody looked.
    """

    messages: int = 0
    under_way: int = 0
    looks: int = 0


async def watch(client: AsyncFlujoClient, ended: asyncio.Event) -> Most:
    """Look at the queue, the journal and the leases until a flag is set."""
    most, keyspace, commands = Most(), client.keyspace, client.client
    while not ended.is_set():
        workers = await commands.zrange(keyspace.shard("incarnations"), 0, -1)
        pipeline = commands.pipeline(transaction=True)
        pipeline.llen(broker_queue(keyspace.namespace, DEFAULT_QUEUE))
        pipeline.zcard(keyspace.shard("dispatches"))
        for worker in workers:
            pipeline.zcard(keyspace.held(worker.decode(), 0))
        messages, *steps = await pipeline.execute()
        most.messages, most.under_way = max(most.messages, messages), max(most.under_way, sum(steps))
        most.looks += 1
        try:
            await asyncio.wait_for(ended.wait(), PACE_S)
        except TimeoutError:
            continue
    return most


@pytest.mark.timeout(TIMEOUT_S)
async def test_ten_thousand_items_are_never_more_messages_than_the_limit(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "many")
    ended = asyncio.Event()
    watching = asyncio.create_task(watch(client, ended))

    run = await client.submit("many", list(range(ITEMS)))
    result = await run.result(TIMEOUT_S)
    ended.set()
    most = await watching

    assert result.status is RunStatus.COMPLETED
    assert result.output == [2 * number for number in range(ITEMS)]
    assert MANY_AT_ONCE / 2 <= most.under_way <= MANY_AT_ONCE
    assert most.messages <= 2 * MANY_AT_ONCE
    assert most.looks > 100
