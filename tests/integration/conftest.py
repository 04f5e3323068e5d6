"""Fleets of real processes, shared by the tests of a module."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Flujo, Pipeline, PipelineResult, Settings, StepResult
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.messages import EventKind
from tests.integration.parity_pipelines import Notes

#: What docs/parity.md is shown with, in process and on a fleet.
PARITY = ",".join(
    f"tests.integration.{name}"
    for name in (
        "parity_pipelines",
        "parity_edges",
        "parity_deeds",
        "parity_values",
        "parity_branches",
        "parity_flow",
        "parity_runs",
        "deeds",
    )
)

#: Makes a runner of a pipeline, where the test asks.
Open = Callable[..., Flujo]

PIPELINES = (
    "tests.integration.pipelines,tests.integration.control_flow,tests.integration.human,tests.integration.hooked,"
    "tests.integration.budgets,tests.integration.streams"
)
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0


@dataclass
class Fleet:
    """A redis-server, managers and workers, each a process of its own."""

    folder: Path
    server: RedisServer
    extra: dict[str, str] = field(default_factory=dict)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    log_files: dict[int, Path] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("FLUJO_", "OTEL_"))}
        own |= {"FLUJO_URL": self.url, "FLUJO_PIPELINES": PIPELINES, "TEST_LEDGER": str(self.folder / "ledger")}
        return own | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | self.extra

    def settings(self) -> Settings:
        shared = ("FLUJO_BROKER_URL", "FLUJO_NAMESPACE", "FLUJO_SHARDS")
        known = {name: value for name, value in self.extra.items() if name in shared}
        return Settings.from_env({"FLUJO_URL": self.url, **known})

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `flujo ...`; its output goes to the fleet's folder."""
        return self.start_process("-m", "flujo_client.cli", *command, name=command[0], **environment)

    def start_process(self, *options: str, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python ...`; its output goes to the fleet's folder."""
        path = self.folder / f"{name}-{len(self.processes)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *options],
                env=self.environment | environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[process.pid] = process
        self.log_files[process.pid] = path
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has written so far."""
        return self.log_files[process.pid].read_text(errors="replace")

    def worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("worker", *options, **environment)

    def manager(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("manager", "--loglevel", "INFO", **environment)

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.folder.glob("*.log"))
        )

    def logs_whole(self) -> str:
        """What all processes have written so far."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """The ledger's complete lines that say all of `wanted`."""
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [entry for entry in found if all(entry[name] == value for name, value in wanted.items())]

    def open_gate(self, name: str) -> None:
        (self.folder / f"gate-{name}").touch()

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Wait until a condition of the world outside this process holds; return what it gave."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)
        raise AssertionError(f"not in {timeout_s} s: {what}\n{self.logs()}")

    async def published(self, client: AsyncFlujoClient, name: str) -> None:
        """Wait until a worker has published a pipeline."""

        async def known() -> bool:
            return bool(await client.client.hexists(client.keyspace.shard("pipelines"), name))

        await self.until(known, f"{name} is published")

    async def started(self, run_id: str, path: str, times: int = 1) -> list[dict[str, Any]]:
        """Wait until a step has been started so many times; return what the ledger says of it."""

        def begun() -> list[dict[str, Any]]:
            found = self.entries(kind="started", run_id=run_id, path=path)
            return found if len(found) >= times else []

        found: list[dict[str, Any]] = await self.until(begun, f"{run_id} {path} is started {times} times")
        return found

    async def billed(self, run_ids: Collection[str], bills: int) -> None:
        """Wait until runs have been billed so many times together."""
        await self.until(
            lambda: sum(entry["run_id"] in run_ids for entry in self.entries(kind="bill")) >= bills,
            f"{bills} bills of {len(run_ids)} runs",
        )

    async def assert_paid_once(self, client: AsyncFlujoClient, run_id: str, killed: Collection[int] = ()) -> None:
        """No step was committed twice, billed again after its commit, or run again without a dead worker.

        Args:
            killed: Processes whose steps may have run again.
        """
        commits: dict[str, tuple[str, int]] = {}
        async for event in client.run(run_id).events():
            if event.kind is EventKind.SUCCEEDED:
                assert event.path not in commits, f"{run_id} {event.path} was committed twice"
                commits[event.path] = event.fields["nonce"], int(event.id.partition("-")[0])
        for entry in self.entries(run_id=run_id):
            nonce, committed_ms = commits[entry["path"]]
            if entry["nonce"] != nonce:
                assert entry["pid"] in killed, f"ran again although its worker lived: {entry}"
                assert entry["kind"] != "bill" or entry["at_ms"] <= committed_ms, f"billed after its commit: {entry}"

    async def ready(self, workers: int) -> None:
        """Wait until so many worker processes have registered."""
        async with AsyncFlujoClient(settings=self.settings()) as client:
            key = client.keyspace.shard("incarnations")

            async def registered() -> bool:
                return bool(await client.client.zcard(key) >= workers)

            await self.until(registered, f"{workers} workers registered")

    def stop(self) -> None:
        """Kill what runs, children included: how a process leaves by itself is what test_shutdown asks, and takes a second and a half."""
        living = [process for process in self.processes.values() if process.poll() is None]
        for process in living:
            with suppress(ProcessLookupError):  # it has just ended by itself, and its children with it
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        for process in living:
            process.wait()
        self.server.stop()


async def account_fields(flujo: Flujo, run_id: str) -> dict[str, str]:
    """What the accounts' hash of a run has, wherever the runner runs."""
    engine = await flujo._opened()
    fields = await engine.redis.hgetall(engine.keyspace.run(run_id).accounts)
    return {name.decode(): value.decode() for name, value in fields.items()}


@pytest.fixture(scope="module")
def make_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fleet]]:
    """Make fleets that end with the module."""
    yield from _making(tmp_path_factory)


@pytest.fixture
def make_own_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fleet]]:
    """Make fleets that end with the test, so that they cost the next one no time."""
    yield from _making(tmp_path_factory)


def _making(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Fleet]]:
    fleets: list[Fleet] = []

    def make(name: str, *options: str, **extra: str) -> Fleet:
        folder = tmp_path_factory.mktemp(name)
        server = RedisServer(folder / "redis", options=options).start()
        fleets.append(Fleet(folder, server, extra))
        return fleets[-1]

    yield make
    for fleet in fleets:
        fleet.stop()


@pytest.fixture(scope="module")
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and two workers on one Redis."""
    made = make_fleet("fleet")
    made.manager()
    made.worker()
    made.worker()
    asyncio.run(made.ready(2))
    return made


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    """A client of the module's fleet."""
    async with AsyncFlujoClient(settings=fleet.settings()) as connected:
        yield connected


def at_work(fleet: Fleet) -> Fleet:
    """The same fleet, with one manager and one worker that are ready."""
    fleet.manager()
    fleet.worker()
    asyncio.run(fleet.ready(1))
    return fleet


def opener(request: pytest.FixtureRequest, fleet: str, **defaults: Any) -> Open:
    """Makes runners of pipelines in process or on a fleet, as the parameter of the fixture that asks says.

    Args:
        fleet: The fixture that has the fleet.
        defaults: What runners are given besides.
    """
    where = {} if request.param == "in process" else {"settings": request.getfixturevalue(fleet).settings()}
    return lambda pipeline, **options: Flujo(pipeline, **{**defaults, **where, **options})


@pytest.fixture(scope="module")
def parity_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker, which has what docs/parity.md is shown with."""
    return at_work(make_fleet("parity", FLUJO_PIPELINES=PARITY, FLUJO_STRICT_PRICING="1"))


class Modes:
    """Runs pipelines where the test asks.

    Args:
        fleet: None: in process.
        in_process: What runners are given besides there; workers have it of their modules.
    """

    def __init__(self, fleet: Fleet | None, **in_process: Any) -> None:
        self.queued = fleet is not None
        self._where = in_process if fleet is None else {"settings": fleet.settings()}

    async def run(self, pipeline: Pipeline, value: Any, **options: Any) -> PipelineResult:
        return await run(Flujo(pipeline, **self._where, **options), value)

    async def iterate(self, pipeline: Pipeline, value: Any, **options: Any) -> AsyncIterator[Any]:
        async with Flujo(pipeline, **self._where, **options) as flujo:
            async for item in flujo.run_async(value):
                yield item


@pytest.fixture(scope="module", params=["in process", "on a fleet"])
def flujo(request: pytest.FixtureRequest) -> Open:
    """Makes a runner of a pipeline: the same test in process and on workers."""
    return opener(request, "parity_fleet", context_model=Notes)


async def run(runner: Flujo, value: Any = 1, **options: Any) -> PipelineResult:
    """The result of one run of a runner, which is closed after it."""
    async with runner:
        return await runner.run_async(value, **options)


async def last(runner: Flujo, value: Any = 1) -> StepResult:
    """The last step's result of such a run."""
    return (await run(runner, value)).step_history[-1]
