"""The two sides of a comparison: each makes a fleet and runs the same work on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workloads_flujo
from celery import chain, chord
from fleet import Fleet
from workloads_canvas import make_app

from flujo_client import AsyncFlujoClient, Flujo, Settings, UsageLimits

__all__ = ["CANVAS_FLEETS", "CanvasSide", "FlujoSide", "Side"]

LIMITS = UsageLimits(total_tokens_limit=10**9, total_cost_usd_limit=1000.0)
TIMEOUT_S = 300
_QUIET = ("--without-gossip", "--without-mingle")

#: Canvas' candidates with two processes that run tasks, and with one: (number of workers, options of each).
CANVAS_FLEETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "prefork": (1, ("-P", "prefork", "-c", "2")),
    "threads": (2, ("-P", "threads", "-c", "10")),
    "solo": (2, ("-P", "solo")),
    "threads-100": (1, ("-P", "threads", "-c", "100")),
    "prefork-100": (1, ("-P", "prefork", "-c", "100")),
}


class Side(ABC):
    """Runs a workload, named as the pipelines of `workloads_flujo` without their prefix."""

    name: str
    fleet: Fleet

    @abstractmethod
    def running(self) -> contextlib.AbstractContextManager[object]:
        """Start the fleet, wait until it answers, and end it at the end."""

    @abstractmethod
    def one_by_one(self, work: str, value: Any, times: int) -> float:
        """Seconds that `times` runs take, each begun when the last one's result is here; one more before, to warm up."""

    @abstractmethod
    def at_once(self, work: str, value: Any, runs: int) -> tuple[float, float]:
        """Seconds, and CPU-seconds of the workers, that `runs` runs take from the first submit to the last result."""


class FlujoSide(Side):
    """Ours: default settings, a budget in money and tokens on every run, the manager in this process.

    Args:
        url: The Redis server's, without a database.
        workers: Worker processes.
        events: Whether the workers send task events.
        folder: For the log.
    """

    name = "ours"

    def __init__(self, url: str, workers: int, *, events: bool, folder: Path) -> None:
        self._settings = Settings(url=f"{url}/0")
        self._workers = workers
        environment = {"FLUJO_URL": f"{url}/0", "FLUJO_PIPELINES": "workloads_flujo"}
        command = ("flujo_client.cli", "worker")
        if events:
            queues = "flujo.default,flujo.submit"
            command = ("celery", "-A", "flujo_worker.app", "worker", "-Q", queues, "-l", "WARNING", *_QUIET, "-E")
        commands = [(*command, *(("-n", f"ours{index}@%h") if events else ())) for index in range(workers)]
        self.fleet = Fleet(commands, environment, folder / "ours.log")

    @contextlib.contextmanager
    def running(self) -> Iterator[object]:
        with self.fleet:
            asyncio.run(asyncio.wait_for(self._registered(), 60))
            yield self

    async def _registered(self) -> None:
        async with AsyncFlujoClient(settings=self._settings) as client:
            known = client.keyspace.shard("incarnations")
            while await client.client.zcard(known) < self._workers:
                await asyncio.sleep(0.05)

    def _flujo(self, work: str) -> Flujo:
        pipeline = getattr(workloads_flujo, f"flujo_{work}")
        return Flujo(pipeline, settings=self._settings, usage_limits=LIMITS)

    def one_by_one(self, work: str, value: Any, times: int) -> float:
        async def measure() -> float:
            async with self._flujo(work) as flujo:
                await flujo.run_async(value)
                began = time.perf_counter()
                for _ in range(times):
                    result = await flujo.run_async(value)
                    assert result.success
                return time.perf_counter() - began

        return asyncio.run(measure())

    def at_once(self, work: str, value: Any, runs: int) -> tuple[float, float]:
        async def measure() -> tuple[float, float]:
            async with self._flujo(work) as flujo:

                async def one() -> bool:
                    return (await flujo.run_async(value)).success

                await one()
                used, began = self.fleet.cpu_s(), time.perf_counter()
                successes = await asyncio.gather(*(one() for _ in range(runs)))
                took = time.perf_counter() - began
                assert all(successes)
                return took, self.fleet.cpu_s() - used

        return asyncio.run(measure())


class CanvasSide(Side):
    """Celery's canvas in one of its settings: acknowledged early, results in Redis, only those that somebody reads.

    Args:
        url: The Redis server's, without a database.
        kind: Of `CANVAS_FLEETS`.
        database: Number of the broker's database; results go to the next one.
        events: Whether the workers send task events.
        folder: For the log.
    """

    def __init__(self, url: str, kind: str, database: int, *, events: bool, folder: Path) -> None:
        self.name = kind
        broker, backend = f"{url}/{database}", f"{url}/{database + 1}"
        self._tasks = make_app(broker, backend).tasks
        workers, options = CANVAS_FLEETS[kind]
        self._workers = workers
        fixed = ("celery", "-A", "workloads_canvas", "worker", "-l", "WARNING", *_QUIET, *(("-E",) if events else ()))
        commands = [(*fixed, *options, "-n", f"{kind}{index}@%h") for index in range(workers)]
        environment = {"BENCH_BROKER": broker, "BENCH_BACKEND": backend}
        self.fleet = Fleet(commands, environment, folder / f"{kind}.log")

    @contextlib.contextmanager
    def running(self) -> Iterator[object]:
        with self.fleet:
            app = self._tasks["canvas.increment"].app
            deadline = time.monotonic() + 60
            while len(app.control.ping(timeout=0.5) or ()) < self._workers:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"The {self.name} workers did not start.")
            yield self

    def _start(self, work: str, value: Any) -> Any:
        """Submit one run; its result handle. Results between the steps of a chain are not kept."""
        increment = self._tasks["canvas.increment"]
        if work == "fan":
            return chord([increment.s(value) for _ in range(100)])(self._tasks["canvas.join"].s())
        task, steps = {
            "chain": (increment, 10),
            "sleeping": (self._tasks["canvas.sleep"], 3),
            "megabyte": (self._tasks["canvas.rotate"], 5),
        }[work]
        first, middle = task.s(value).set(ignore_result=True), task.s().set(ignore_result=True)
        return chain(first, *(middle.clone() for _ in range(steps - 2)), task.s()).apply_async()

    def one_by_one(self, work: str, value: Any, times: int) -> float:
        self._start(work, value).get(timeout=TIMEOUT_S)
        began = time.perf_counter()
        for _ in range(times):
            self._start(work, value).get(timeout=TIMEOUT_S)
        return time.perf_counter() - began

    def at_once(self, work: str, value: Any, runs: int) -> tuple[float, float]:
        self._start(work, value).get(timeout=TIMEOUT_S)
        used, began = self.fleet.cpu_s(), time.perf_counter()
        for result in [self._start(work, value) for _ in range(runs)]:
            result.get(timeout=TIMEOUT_S)
        return time.perf_counter() - began, self.fleet.cpu_s() - used
