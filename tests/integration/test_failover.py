"""A replica without its master's last writes takes over: documented loss only, and somebody says so."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis

from flujo_client import AsyncFlujoClient, UsageLimits
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.errors import RunNotFoundError
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet
from tests.unit.proxy import Proxy


def _flujo(fleet: Fleet, *command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", *command, "--json"],
        env=fleet.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _caught_up(master: redis.Redis, replica: redis.Redis) -> bool:
    there: Any = replica.info("replication")
    return bool(there["master_link_status"] == "up" and master.wait(1, 1_000) == 1)


async def test_a_failover_without_the_tail_loses_only_the_tail_and_is_reported(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "master") as master, RedisServer(tmp_path / "replica") as replica:
        on_master, on_replica = redis.Redis(port=master.port), redis.Redis(port=replica.port)
        on_replica.replicaof("127.0.0.1", master.port)
        async with Proxy(master.port).listening() as proxy:
            fleet = Fleet(tmp_path, master, {"FLUJO_URL": proxy.url})
            try:
                fleet.manager()
                fleet.worker()
                await fleet.ready(1)
                limits = UsageLimits(total_tokens_limit=1_000)
                async with AsyncFlujoClient(proxy.url) as client:
                    await fleet.published(client, "holding")
                    before = await client.submit("sharing", 2, run_id="before", usage_limits=limits)
                    await before.result(TIMEOUT_S)
                    under_way = await client.submit("holding", "under-way", run_id="under-way")
                    await fleet.started("under-way", "0")
                    await fleet.until(lambda: _caught_up(on_master, on_replica), "the replica has everything")

                    on_replica.replicaof("NO", "ONE")  # from here on it gets nothing more
                    lost = await client.submit("sharing", 2, run_id="lost", usage_limits=limits)
                    await lost.result(TIMEOUT_S)
                    key = client.keyspace.shard("sweep")
                    kept = int(on_replica.hget(key, "witnessed") or 0)
                    await fleet.until(
                        lambda: int(on_master.hget(key, "witnessed") or 0) > kept + 2,
                        "the manager has counted what the replica lacks",
                    )
                    fleet.open_gate("under-way")
                    await under_way.result(TIMEOUT_S)
                    proxy.move_to(replica.port)
                    master.stop()

                async with AsyncFlujoClient(proxy.url) as client:
                    assert (await client.run("before").result(TIMEOUT_S)).success
                    assert (await client.run("under-way").result(TIMEOUT_S)).output == "after under-way"
                    assert (await (await client.submit("chain", 1)).result(TIMEOUT_S)).output == 6
                    with pytest.raises(RunNotFoundError):  # the replica never had it
                        await client.run("lost").status()

                    async def noticed() -> bool:
                        return bool(await client.client.hget(client.keyspace.shard("sweep"), "loss"))

                    await fleet.until(noticed, "a manager noticed it")

                report = await asyncio.to_thread(_flujo, fleet, "doctor")
                (told,) = (found for found in report["findings"] if found["subject"] == "history")
                assert "Redis lost what it had answered between" in told["text"]
                assert (report["healthy"], told["verdict"]) == (True, "warning")
                assert await asyncio.to_thread(_flujo, fleet, "audit") is not None
            finally:
                fleet.stop()
                on_master.close()
                on_replica.close()
