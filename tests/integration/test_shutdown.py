"""SIGTERM on every pool, bodies that nothing can stop, and processes that are of no use any more."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.client import AsyncRun
from flujo_client.protocol.messages import EventKind
from tests.integration.conftest import TIMEOUT_S, Fleet

POOLS = ("asyncio", "prefork", "threads")

#: Less than the body of any of these tests takes.
GRACE_S = "0.2"


async def _two_workers(fleet: Fleet, client: AsyncFlujoClient, pool: str, pipeline: str) -> dict[int, Any]:
    """A manager and two workers of a pool, each ready for steps."""
    fleet.manager()
    options = ("--pool", pool, "--concurrency", "2", "--loglevel", "INFO")
    workers = [fleet.worker(*options) for _ in range(2)]
    await fleet.until(lambda: all("ready." in fleet.log_of(worker) for worker in workers), "the workers are ready")
    await fleet.published(client, pipeline)
    return {worker.pid: worker for worker in workers}


def _worker_of(entry: dict[str, Any], workers: dict[int, Any]) -> subprocess.Popen[bytes]:
    """Whose step it was: the process itself, or a child of the worker's on prefork."""
    found: subprocess.Popen[bytes] = workers.get(entry["pid"]) or workers[entry["parent"]]
    return found


async def _losses(run: AsyncRun) -> list[str]:
    return [event.fields["reason"] async for event in run.events() if event.kind is EventKind.LOST]


@pytest.mark.parametrize("pool", POOLS)
async def test_sigterm_hands_running_steps_over_at_once(make_own_fleet: Callable[..., Fleet], pool: str) -> None:
    fleet = make_own_fleet(f"handover-{pool}", FLUJO_SHUTDOWN_GRACE_S=GRACE_S)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        workers = await _two_workers(fleet, client, pool, "holding")
        run = await client.submit("holding", "handover", run_id="handover-1")
        worker = _worker_of((await fleet.started("handover-1", "0"))[0], workers)

        worker.terminate()
        await fleet.started("handover-1", "0", times=2)
        fleet.open_gate("handover")

        assert (await run.result(TIMEOUT_S)).output == "after handover"
        assert await _losses(run) == ["handed_over"]
        assert await asyncio.to_thread(worker.wait, 30) == 0


@pytest.mark.parametrize("pool", POOLS)
async def test_steps_that_end_within_the_grace_are_not_run_again(
    make_own_fleet: Callable[..., Fleet], pool: str
) -> None:
    fleet = make_own_fleet(f"grace-{pool}", FLUJO_SHUTDOWN_GRACE_S="60")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        workers = await _two_workers(fleet, client, pool, "holding")
        run = await client.submit("holding", "grace", run_id="grace-1")
        worker = _worker_of((await fleet.started("grace-1", "0"))[0], workers)

        worker.terminate()
        await fleet.until(lambda: "Warm shutdown" in fleet.log_of(worker), "the worker has heard it")
        fleet.open_gate("grace")

        assert (await run.result(TIMEOUT_S)).output == "after grace"
        assert await _losses(run) == []
        assert await asyncio.to_thread(worker.wait, 30) == 0


@pytest.mark.parametrize(
    ("pool", "pipeline"), [*((pool, "blocking") for pool in POOLS), ("asyncio", "unheeding"), ("threads", "unheeding")]
)
async def test_a_body_that_cannot_be_stopped_runs_elsewhere_once_its_process_is_gone(
    make_own_fleet: Callable[..., Fleet], pool: str, pipeline: str
) -> None:
    """However often: with one delivery allowed, a loss that counted would end the run."""
    fleet = make_own_fleet(f"stuck-{pool}-{pipeline}", FLUJO_SHUTDOWN_GRACE_S=GRACE_S, FLUJO_MAX_DELIVERIES="1")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        workers = await _two_workers(fleet, client, pool, pipeline)
        run = await client.submit(pipeline, "stuck", run_id="stuck-1")
        first = (await fleet.started("stuck-1", "0"))[0]

        _worker_of(first, workers).terminate()
        second = (await fleet.started("stuck-1", "0", times=2))[1]

        assert not _alive(first["pid"]), "the first body runs no more when the second starts"
        assert second["pid"] != first["pid"]
        fleet.open_gate("stuck")
        assert (await run.result(TIMEOUT_S)).output == "stuck"
        assert await _losses(run) == ["handed_over"]
        assert await asyncio.to_thread(_worker_of(first, workers).wait, 30) == 0


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_hung_bodies_cost_a_worker_no_slot_until_it_is_replaced(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("hung")
    fleet.manager()
    worker = fleet.worker("--concurrency", "2")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "hanging")
        first = await (await client.submit("hanging", "never")).result(TIMEOUT_S)
        innocent = await client.submit("blocking", "open")
        fleet.open_gate("open")
        assert (await innocent.result(TIMEOUT_S)).output == "open"

        second = await (await client.submit("hanging", "never")).result(TIMEOUT_S)

        assert "TimeoutError" in str(first.step_history[0].feedback)
        assert not second.success
        assert await asyncio.to_thread(worker.wait, 30) == 1, "so that whoever watches it starts another"
        assert "as many sync bodies hang as this process has slots" in fleet.log_of(worker)
        fleet.worker()
        assert (await (await client.submit("blocking", "open")).result(TIMEOUT_S)).output == "open"
