"""Deadlines of runs and of steps are kept by the managers, in Redis' time, whoever dies and is started again meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.execution.draft import LEASE_GRACE_MS
from flujo_client.protocol.errors import RunCancelledError
from flujo_client.protocol.messages import Event, EventKind
from tests.faults.workload import now_ms
from tests.integration import clockwork
from tests.integration.conftest import TIMEOUT_S, Fleet

#: A step that its process does not end is given up so long after its start.
STEP_DEADLINE_MS = round(clockwork.TIMEOUT_S * 1000) + LEASE_GRACE_MS

#: Of the runs here: long enough for processes to be started on a busy machine.
RUN_DEADLINE_S = 12

#: From a deadline until a manager has acted on it, at the most: a sweep every half second, on a busy machine.
#: A lease begins a little before the body.
KEPT_WITHIN_MS = 5_500


@pytest.fixture
async def fleet(make_own_fleet: Callable[..., Fleet]) -> Fleet:
    """One worker; the managers are the test's."""
    made = make_own_fleet("clockwork", FLUJO_PIPELINES="tests.integration.clockwork,tests.faults.poison")
    made.worker()
    await made.ready(1)
    return made


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=fleet.settings()) as connected:
        await fleet.published(connected, "overrunning")
        await fleet.published(connected, "notices")
        yield connected


def _kept(at_ms: int, deadline_ms: int, serving_ms: int = 0) -> bool:
    """Whether something was done at a deadline: not before, and not long after it and the time from which a manager served."""
    return deadline_ms <= at_ms <= max(deadline_ms, serving_ms) + KEPT_WITHIN_MS


async def _serving(fleet: Fleet) -> subprocess.Popen[bytes]:
    """A manager that is at work."""
    manager = fleet.manager()
    await fleet.until(lambda: "serving the pool" in fleet.log_of(manager), "a manager serves")
    return manager


async def _killed(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        await asyncio.to_thread(process.wait)


async def _redis_killed_and_started_again(fleet: Fleet) -> None:
    assert fleet.server.process is not None
    fleet.server.process.kill()
    fleet.server.process.wait()
    await asyncio.to_thread(fleet.server.start)


async def _first(client: AsyncFlujoClient, run_id: str, kind: EventKind) -> tuple[int, Event]:
    """When Redis noted a run's first event of a kind, and the event."""

    async def found() -> tuple[int, Event]:
        async for event in client.run(run_id).events():
            if event.kind is kind:
                return int(event.id.partition("-")[0]), event
        raise AssertionError(f"{run_id} ended without {kind}")

    return await asyncio.wait_for(found(), TIMEOUT_S)


async def test_by_other_managers_after_a_redis_that_was_killed(fleet: Fleet, client: AsyncFlujoClient) -> None:
    managers = await _serving(fleet), await _serving(fleet)
    submitted_ms = now_ms()
    late = await client.submit("notices", 1, run_id="late", deadline_s=RUN_DEADLINE_S)
    await client.submit("overrunning", "hung", run_id="hung")
    await fleet.started("late", "0")
    (begun,) = await fleet.started("hung", "0")

    await _killed(*managers)
    await _redis_killed_and_started_again(fleet)
    await _serving(fleet)
    serving_ms = now_ms()

    with pytest.raises(RunCancelledError, match="its deadline is past"):
        await late.result(TIMEOUT_S)
    (noticed,) = await fleet.until(lambda: fleet.entries(run_id="late", kind="cancelled"), "its step is cancelled")
    assert _kept(noticed["at_ms"], submitted_ms + RUN_DEADLINE_S * 1000, serving_ms)
    lost_ms, lost = await _first(client, "hung", EventKind.LOST)
    assert lost.fields["reason"] == "overdue"
    assert _kept(lost_ms, begun["at_ms"] + STEP_DEADLINE_MS - 500, serving_ms)
    _, again = await fleet.started("hung", "0", times=2)
    fleet.open_gate("hung")
    assert (await client.run("hung").result(TIMEOUT_S)).output == f"hung {again['nonce']}"


async def _begun_again(fleet: Fleet, client: AsyncFlujoClient, pipeline: str, value: Any) -> dict[str, Any]:
    """Kill the worker of a run's step; what the ledger says of its next start, on the other worker."""
    await _serving(fleet)
    fleet.worker()
    await fleet.ready(2)
    await client.submit(pipeline, value, run_id="moved", deadline_s=RUN_DEADLINE_S if pipeline == "notices" else None)
    (first,) = await fleet.started("moved", "0")

    await _killed(fleet.processes[first["pid"]])

    _, second = await fleet.started("moved", "0", times=2)
    assert second["pid"] != first["pid"]
    return second


async def test_for_a_run_whose_step_began_again_elsewhere(fleet: Fleet, client: AsyncFlujoClient) -> None:
    second = await _begun_again(fleet, client, "notices", 1)

    with pytest.raises(RunCancelledError, match="its deadline is past"):
        await client.run("moved").result(TIMEOUT_S)
    (noticed,) = await fleet.until(lambda: fleet.entries(run_id="moved", kind="cancelled"), "its step is cancelled")
    created_ms, _ = await _first(client, "moved", EventKind.CREATED)
    assert noticed["pid"] == second["pid"]
    assert _kept(noticed["at_ms"], created_ms + RUN_DEADLINE_S * 1000)


async def test_for_a_step_that_began_again_elsewhere(fleet: Fleet, client: AsyncFlujoClient) -> None:
    second = await _begun_again(fleet, client, "overrunning", "moved")

    *_, third = await fleet.started("moved", "0", times=3)
    assert _kept(third["at_ms"], second["at_ms"] + STEP_DEADLINE_MS - 500)
    fleet.open_gate("moved")
    assert (await client.run("moved").result(TIMEOUT_S)).output == f"moved {third['nonce']}"


async def test_for_a_run_that_nobody_is_left_to_run(fleet: Fleet, client: AsyncFlujoClient) -> None:
    """All died; whoever comes first, a manager, ends the run, and a worker that comes later does not begin its step."""
    manager = await _serving(fleet)
    run = await client.submit("notices", 1, run_id="late", deadline_s=3)
    (begun,) = await fleet.started("late", "0")
    await _killed(manager, fleet.processes[begun["pid"]])
    key = client.keyspace.shard("deadlines")
    due_ms = int((await client.client.zscore(key, "late")) or 0)

    async def past() -> bool:
        seconds, micros = await client.client.time()
        return bool(seconds * 1000 + micros // 1000 > due_ms)

    await fleet.until(past, "its deadline is past")
    fleet.manager()

    with pytest.raises(RunCancelledError, match="its deadline is past"):
        await run.result(TIMEOUT_S)
    fleet.worker()
    assert (await (await client.submit("probing", "probe")).result(TIMEOUT_S)).output == "probe"
    assert len(fleet.entries(run_id="late", kind="started")) == 1
