"""Whoever is outside of Redis notices that it has forgotten something."""

from __future__ import annotations

import pytest

from flujo_client.execution.witness import LOSS, HistoryWitness, Loss, find_loss
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.scripts import Scripts


@pytest.mark.parametrize(
    ("count", "loss"),
    [
        (6, None),
        (9, None),
        (5, Loss(200, 300)),
        (4, Loss(200, 300)),
        (3, Loss(100, 300)),
        (2, None),
        (1, Loss(None, 300)),
    ],
)
def test_a_counter_that_fell_says_since_when_nothing_is_known(count: int, loss: Loss | None) -> None:
    seen = [(2, 100), (3, 200), (5, 300)] if count != 2 else []

    assert find_loss(seen, count) == loss


async def test_a_redis_that_lost_its_tail_is_noticed_by_every_witness_and_noted(
    scripts: Scripts, keyspace: Keyspace
) -> None:
    key = keyspace.shard("sweep")
    one, other = (HistoryWitness(scripts.commands, key) for _ in range(2))
    for _ in range(3):
        assert await one.look() is None
        assert await other.look() is None
    assert await scripts.commands.execute("HGET", key, LOSS) is None

    await scripts.commands.execute("HSET", key, "witnessed", 3)  # as an earlier moment had it

    lost = await one.look()
    assert lost is not None
    assert lost.since_ms is not None
    assert await scripts.commands.execute("HGET", key, LOSS)
    assert await other.look() is not None
    assert await one.look() is None
    assert await other.look() is None
