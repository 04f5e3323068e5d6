"""F15: Redis fails over to a replica that had not heard the last of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio as aioredis

from flujo_client.audit import Auditor
from flujo_client.cli.redis_server import RedisServer
from tests.faults.rounds import Round

__all__ = ["FAILOVER_FAULTS"]


async def promote_a_replica(this: Round) -> None:
    """The replica is cut off, the primary goes on for a moment and dies, and the replica takes its address.

    What is lost is the moment in between: those steps run, and bill, again. An audit derives every account anew.
    """
    this.tail_lost = this.submit_again = True
    async with _replica_of(this.arena.fleet.server) as (replica, link):
        await this.load()
        await link.execute_command("REPLICAOF", "NO", "ONE")
        this.how = f"{(lost_s := this.chance.random()) * 1000:.0f} ms lost"
        this.open_gates()
        await asyncio.sleep(lost_s)
        primary = this.arena.fleet.server
        assert primary.process is not None
        primary.process.kill()
        primary.process.wait()
        replica.stop()
        shutil.rmtree(primary.folder)
        shutil.copytree(replica.folder, primary.folder)
        primary.start()
    await this.nobody_is_deaf()
    await this.all_end()
    for run_id in this.inputs:
        differing = await Auditor(this.client.client, this.client.keyspace).audit(run_id)
        this.violations += [f"I4 the audit differs: {difference}" for difference in differing]


@asynccontextmanager
async def _replica_of(primary: RedisServer) -> AsyncIterator[tuple[RedisServer, Any]]:
    """A replica that is in step."""
    with tempfile.TemporaryDirectory(prefix="flujo-replica-") as folder:
        options = ("--replicaof", "127.0.0.1", str(primary.port), "--repl-diskless-sync-delay", "0")
        replica = RedisServer(Path(folder) / "redis", options=options)
        own = aioredis.Redis.from_url(primary.url)
        await own.config_set("repl-diskless-sync-delay", 0)
        await own.aclose()
        replica.start()
        link: Any = aioredis.Redis.from_url(replica.url)
        try:
            while (await link.info("replication")).get("master_link_status") != "up":
                await asyncio.sleep(0.05)
            yield replica, link
        finally:
            await link.aclose()
            replica.stop()


FAILOVER_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F15": ("failover to a replica that lost the tail", promote_a_replica),
}
