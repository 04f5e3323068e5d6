"""Real processes to hurt: a fleet that is made whole again between rounds."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flujo_client import AsyncFlujoClient
from flujo_client.cli.redis_server import RedisServer
from tests.faults.brokers import BROKERS, Broker
from tests.faults.workload import ANYWHERE, CPU, FAR, now_ms
from tests.integration.conftest import Fleet

PIPELINES = ",".join(f"tests.faults.{name}" for name in ("workload", "kinds", "poison", "crowds", "stories"))

SITE = Path(__file__).parent / "site"

#: What a manager writes once it serves.
SERVING = re.compile(r"serving the pool as (\S+)")


@dataclass
class Arena:
    """One Redis for runs and messages, two managers, three workers, and one whose processes compute.

    Args:
        folder: Of its logs and its ledger.
        kind: What carries the messages, a name of `brokers.BROKERS`. By default they lie beside the runs, as a fleet's do.
        more: Variables of all of its processes.
    """

    folder: Path
    kind: str = "beside"
    more: dict[str, str] = field(default_factory=dict)
    broker: Broker = field(init=False)
    fleet: Fleet = field(init=False)
    managers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    cpu: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        server = RedisServer(self.folder / "redis").start()
        self.broker = BROKERS[self.kind](server)
        extra = self.more | {
            "FLUJO_PIPELINES": PIPELINES,
            "FLUJO_BROKER_URL": self.broker.url,
            "FLUJO_NAMESPACE": self.broker.namespace,
        }
        self.fleet = Fleet(self.folder, server, extra)
        os.environ["TEST_LEDGER"] = str(self.ledger)

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    def worker(self, queues: str = f"{ANYWHERE},{FAR}", **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker of async steps."""
        return self.fleet.worker("--queues", queues, "--loglevel", "INFO", **environment)

    async def at_work(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until a worker takes messages."""
        await self.fleet.until(lambda: " ready." in self.fleet.log_of(worker), "the worker takes messages")

    def spoilt_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker of the far queue whose surroundings `sitecustomize` spoils."""
        path = os.pathsep.join((str(SITE), self.fleet.environment["PYTHONPATH"]))
        return self.worker(FAR, PYTHONPATH=path, **environment)

    async def make_whole(self, client: AsyncFlujoClient) -> None:
        """Start what is missing and wait until all of it is at work."""
        self.replace_dead()
        for worker in (*self.workers, *self.cpu):
            await self.at_work(worker)
        await self.fleet.until(lambda: self._registered(client, "incarnations", 3), "three workers are registered")
        await self.fleet.until(lambda: self.managed(client), "two managers are registered")
        await self.fleet.published(client, "relay_default")

    def replace_dead(self) -> None:
        """Start what is missing."""
        self.managers, self.workers = _living(self.managers), _living(self.workers)
        self.cpu = _living(self.cpu)
        self.managers += [self.fleet.manager() for _ in range(2 - len(self.managers))]
        self.workers += [self.worker() for _ in range(3 - len(self.workers))]
        self.cpu += [self._cpu_worker() for _ in range(1 - len(self.cpu))]

    def _cpu_worker(self) -> subprocess.Popen[bytes]:
        return self.fleet.worker("--queues", CPU, "--pool", "prefork", "--concurrency", "4", "--loglevel", "INFO")

    async def managed(self, client: AsyncFlujoClient) -> bool:
        """Whether both managers live, serve, and renew what they hold. One that was killed stays registered for a while: it does not count."""
        serving = [SERVING.search(self.fleet.log_of(manager)) for manager in _living(self.managers)]
        registered = await client.client.zrange(client.keyspace.shard("managers"), 0, -1)
        known = [found and found[1].encode() in registered for found in serving]
        return known == [True, True] and await self._registered(client, "managers", 2)

    async def _registered(self, client: AsyncFlujoClient, name: str, wanted: int) -> bool:
        """Whether enough processes have a deadline ahead, and nobody who is dead is left to be buried."""
        now = now_ms()
        rows = await client.client.zrange(client.keyspace.shard(name), 0, -1, withscores=True)
        return len(rows) >= wanted and all(deadline > now for _, deadline in rows)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncFlujoClient]:
        """A client of the arena, on this event loop."""
        async with AsyncFlujoClient(settings=self.fleet.settings()) as client:
            yield client

    def stop(self) -> None:
        self.fleet.stop()
        self.broker.stop()


def _living(processes: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    return [process for process in processes if process.poll() is None]
