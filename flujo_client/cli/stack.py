"""`Stack`: a whole installation on one machine, out of this process' children. What `flujo up` and `flujo demo` run."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from flujo_client.archive.locking import try_lock_file
from flujo_client.cli.redis_server import RedisServer, kept_port
from flujo_client.cli.supervisor import Child, Supervisor
from flujo_client.client import AsyncFlujoClient
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.settings import Settings

__all__ = ["Stack"]

_READY_TIMEOUT_S = 45.0
_MOST_STARTS = 3

#: Where a folder keeps its ports, so that what was told clients holds after the next start.
_PORTS = "ports.json"


class Stack:
    """Redis, a manager, workers and Flower, supervised.

    Args:
        folder: Data and logs.
        settings: Of its processes, but for the URL, which is that of its own Redis, and the pipelines.
        pipelines: Modules that the workers serve.
        workers: How many worker processes.
        concurrency: Steps at once in each; None for the default.
        redis_port, flower_port: Default: those that the folder had before, if they are free; else free ones.
        flower: Whether to start Flower, if it is installed.
        environment: More variables for the children.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        pipelines: str,
        *,
        workers: int,
        concurrency: int | None = None,
        redis_port: int | None = None,
        flower_port: int | None = None,
        flower: bool = True,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._folder = folder
        kept = _kept_ports(folder)
        port = redis_port or kept_port(kept.get("redis"))
        self._redis = RedisServer(folder / "redis", port=port)  # for its command line; the supervisor runs it
        self.settings = settings.model_copy(
            update={"url": self._redis.url, "pipelines": pipelines, "health_port": None}
        )
        others = {name: value for name, value in os.environ.items() if not Settings.names(name)}
        path = os.pathsep.join(filter(None, (os.getcwd(), others.get("PYTHONPATH"))))
        self._environment = others | self.settings.to_env() | {"PYTHONPATH": path} | (environment or {})
        self._workers = workers
        self._concurrency = concurrency
        self.flower_url: str | None = None
        if flower and find_spec("flower") is not None:
            self.flower_url = f"http://127.0.0.1:{flower_port or kept_port(kept.get('flower'))}"
        self.supervisor = Supervisor(folder / "logs")
        self._lock: TextIO | None = None

    @property
    def url(self) -> str:
        """For FLUJO_URL."""
        return self._redis.url

    def exports(self) -> dict[str, str]:
        """The variables that its clients need."""
        needed = ("FLUJO_URL", "FLUJO_BROKER_URL", "FLUJO_NAMESPACE")
        return {name: value for name, value in self.settings.to_env().items() if name in needed}

    async def start(self) -> None:
        """Start everything and wait until runs can be submitted.

        Raises:
            ConfigurationError: Another stack uses the folder; another redis-server wrote its data; it did not come up in time, or a
                process ends again and again; names the logs.
        """
        self._redis.refuse_newer_data()
        (self._folder / "redis").mkdir(parents=True, exist_ok=True)
        self._take_folder()
        self._start("redis", self._redis.command())
        self._start("manager", [sys.executable, "-m", "flujo_client.cli", "manager"])
        options = ["--concurrency", str(self._concurrency)] if self._concurrency else []
        for number in range(1, self._workers + 1):
            self._start(f"worker-{number}", [sys.executable, "-m", "flujo_client.cli", "worker", *options])
        if self.flower_url is not None:
            self._start("flower", self._flower_command(self.flower_url))
        await self._ready()

    def _take_folder(self) -> None:
        """Keep the folder for this stack while its process lives: two on the same files would run everything twice."""
        self._lock = (self._folder / "lock").open("a+")
        if not try_lock_file(self._lock):
            self._lock.seek(0)
            told = self._lock.read().strip()
            self._lock.close()
            raise ConfigurationError(
                f"{self._folder} is in use by {told or 'another process'}.",
                suggestion="Use that one, end it, or give another --data-dir.",
            )
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}, FLUJO_URL={self.url}")
        self._lock.flush()
        flower = {} if self.flower_url is None else {"flower": int(self.flower_url.rpartition(":")[2])}
        ports = {**_kept_ports(self._folder), "redis": self._redis.port, **flower}
        (self._folder / _PORTS).write_text(json.dumps(ports))

    def _start(self, name: str, command: list[str]) -> None:
        self.supervisor.start(Child(name, command, self._environment))

    def _flower_command(self, url: str) -> list[str]:
        port = url.rpartition(":")[2]
        options = ["--address=127.0.0.1", f"--port={port}", "--persistent=False"]
        return [sys.executable, "-m", "celery", "-A", "flujo_worker.app", "flower", *options]

    async def _ready(self) -> None:
        """Wait until every worker has registered and a manager is alive."""
        deadline = time.monotonic() + _READY_TIMEOUT_S
        async with AsyncFlujoClient(settings=self.settings) as client:
            while time.monotonic() < deadline:
                if self._redis.answers():
                    shard = client.keyspace.shard
                    workers = await client.client.zcard(shard("incarnations"))
                    managers = await client.client.zcard(shard("managers"))
                    published = await client.client.exists(shard("pipelines"))
                    if workers >= self._workers and managers and published:
                        return
                self._refuse_restarts(_MOST_STARTS)
                await asyncio.sleep(0.1)
        self._refuse_restarts(1)
        raise ConfigurationError(f"The processes did not come up; see {self._folder / 'logs'}.")

    def _refuse_restarts(self, most_starts: int) -> None:
        """A process that ended as often as this before it was ready will not become ready. Raises `ConfigurationError`."""
        for child in self.supervisor.children:
            if child.starts > most_starts:
                log = self._folder / "logs" / f"{child.name}.log"
                last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line), "")
                raise ConfigurationError(f"{child.name} ends as soon as it starts: {last}", suggestion=f"See {log}.")

    async def stop(self) -> None:
        """End everything."""
        await self.supervisor.stop()
        if self._lock is not None:
            self._lock.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


def _kept_ports(folder: Path) -> dict[str, int]:
    """The ports that a folder had when it was used last."""
    try:
        found: dict[str, int] = json.loads((folder / _PORTS).read_text())
    except (OSError, ValueError):
        return {}
    return found
