"""A client that is shown only what is on disk, on a Redis that can tell."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.cli.redis_server import RedisServer, find_redis_server
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet
from tests.unit.test_durability import redis_with_waitaof

#: A program whose own manager drives its run.
_CALLER = """
from flujo_client import Flujo
from tests.integration.pipelines import chain
print(Flujo(chain).run(1).output)
"""


def redis_version(executable: Path) -> tuple[int, int]:
    said = subprocess.run([str(executable), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)\.(\d+)", said)
    assert found is not None
    return int(found[1]), int(found[2])


async def test_a_caller_is_refused_a_durability_that_redis_cannot_keep(make_own_fleet: Callable[..., Fleet]) -> None:
    if redis_version(find_redis_server()) >= (7, 2):
        pytest.skip("this redis-server has WAITAOF")
    fleet = make_own_fleet("fast")
    fleet.worker()
    await fleet.ready(1)
    environment = {**os.environ, **fleet.environment, "FLUJO_DURABILITY": "acknowledged"}

    done = subprocess.run([sys.executable, "-c", _CALLER], env=environment, cwd=ROOT, capture_output=True, text=True)

    assert (done.stdout, "FLUJO_DURABILITY=acknowledged cannot be kept here" in done.stderr) == ("", True)


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
            await client.client.delete(client.keyspace.fsync())
            assert took_s < 10, "twenty submissions share a wait or two"

            environment = {**os.environ, **fleet.environment, "FLUJO_DURABILITY": "acknowledged"}
            done = subprocess.run(
                [sys.executable, "-c", _CALLER], env=environment, cwd=ROOT, capture_output=True, text=True
            )
            assert (done.stdout.strip(), done.stderr) == ("6", "")
            assert await client.client.exists(client.keyspace.fsync()), (
                "the caller waited for the disk before it showed it"
            )
    finally:
        fleet.stop()
