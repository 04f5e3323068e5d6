"""`ManagerService`: how a manager leaves, and what it mends."""

from __future__ import annotations

import asyncio
from collections import Counter

from flujo_client import Settings
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
    await create_run(engine.scripts, "orphan", owner="caller-that-was-buried")
    await engine.open()

    async def owner() -> bytes | None:
        found: bytes | None = await engine.client.client.hget(engine.keyspace.run("orphan").run, "owner")
        return found

    async with asyncio.timeout(30):
        while await owner() != POOL.encode():
            pass
    await engine.close()
