"""A client that is shown only what is on disk, on a Redis that can tell."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.cli.redis_server import RedisServer
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.unit.test_durability import redis_with_waitaof


@pytest.mark.skipif(redis_with_waitaof() is None, reason="no redis-server with WAITAOF is installed")
async def test_what_is_acknowledged_survives_a_killed_redis(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", executable=redis_with_waitaof()).start()
    fleet = Fleet(tmp_path, server)
    try:
        fleet.manager()
        fleet.worker()
        await fleet.ready(1)
        settings = fleet.settings().model_copy(update={"durability": "acknowledged"})
        async with AsyncFlujoClient(settings=settings) as client:
            await fleet.published(client, "staged")
            began = time.monotonic()
            runs = await asyncio.gather(*(client.submit("staged", {}, run_id=f"durable-{at}") for at in range(20)))
            took_s = time.monotonic() - began
            results = await asyncio.gather(*(run.result(TIMEOUT_S) for run in runs))
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            server.start()

            assert [await client.run(run.run_id).result(TIMEOUT_S) for run in runs] == results
            for run in runs:
                await fleet.assert_paid_once(client, run.run_id)
            assert took_s < 10, "twenty submissions share a wait or two"
    finally:
        fleet.stop()
