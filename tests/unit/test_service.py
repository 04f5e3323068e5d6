"""`ManagerService`: how a manager leaves, and what it mends."""

from __future__ import annotations

import asyncio
from collections import Counter

from flujo_client import Pipeline, Settings, Step
from flujo_client.engine import QueuedEngine
from flujo_client.protocol.keys import POOL
from tests.lua.runs import create_run


def _settings(redis_url: str, namespace: str) -> Settings:
    return Settings(url=redis_url, namespace=namespace)


async def test_a_manager_that_leaves_hands_every_run_over_however_many(redis_url: str) -> None:
    engine = QueuedEngine(_settings(redis_url, "leaving"), serves_pool=False)
    await engine.open()
    scripts, owner = engine.scripts, engine.service.manager_id
    await asyncio.gather(*(create_run(scripts, f"r{number}", owner=owner) for number in range(1_200)))

    await engine.close()

    async with engine.client as client:
        owners = Counter(
            await asyncio.gather(*(client.client.hget(client.keyspace.run(f"r{n}").run, "owner") for n in range(1_200)))
        )
        assert owners == {POOL.encode(): 1_200}
        assert await client.client.zcard(client.keyspace.shard("managers")) == 0


async def test_a_run_whose_owner_nobody_knows_goes_to_the_pool(redis_url: str) -> None:
    engine = QueuedEngine(_settings(redis_url, "orphans"), serves_pool=True)
    spec = Pipeline([Step.from_callable(abs, name="never_runs")], name="p").to_spec()
    await engine.specs.keep(spec, "orphan")
    await create_run(engine.scripts, "orphan", owner="caller-that-was-buried", spec_hash=spec.content_hash)
    await engine.scripts.cancel("orphan", "caller-that-was-buried", "only a manager can end it")

    await engine.open()

    await engine.client.reader.wait("orphan", 30)
    assert await engine.client.state.owner_of("orphan") == POOL
    await engine.close()


async def test_a_manager_that_is_told_to_stop_at_any_moment_stops(redis_url: str) -> None:
    for turns in range(0, 60, 3):  # how far the start has come: connecting, announcing, sweeping, mending
        engine = QueuedEngine(_settings(redis_url, f"stop{turns}"), serves_pool=True)
        await engine.open()
        for _ in range(turns):
            await asyncio.sleep(0)

        async with asyncio.timeout(10):
            await engine.close()

        async with engine.client as client:
            assert await client.client.zcard(client.keyspace.shard("managers")) == 0
