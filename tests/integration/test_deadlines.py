"""Cancels and deadlines reach what runs, whoever restarts meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.errors import RunCancelledError
from tests.faults.workload import now_ms
from tests.integration.conftest import TIMEOUT_S, Fleet


@pytest.fixture(scope="module")
def noticing(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker."""
    made = make_fleet("deadlines", FLUJO_PIPELINES="tests.faults.poison")
    made.manager()
    made.worker()
    asyncio.run(made.ready(1))
    return made


@pytest.fixture
async def client(noticing: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=noticing.settings()) as connected:
        await noticing.published(connected, "notices")
        yield connected


async def _noticed_ms(fleet: Fleet, run_id: str) -> int:
    """When its step was cancelled."""
    (entry,) = await fleet.until(lambda: fleet.entries(run_id=run_id, kind="cancelled"), "the step is cancelled")
    return int(entry["at_ms"])


async def test_a_cancel_reaches_a_running_step_within_two_seconds(noticing: Fleet, client: AsyncFlujoClient) -> None:
    run = await client.submit("notices", 1, run_id="noticed")
    await noticing.started("noticed", "0")

    cancelled_ms = now_ms()
    await run.cancel()

    assert await _noticed_ms(noticing, "noticed") - cancelled_ms < 2_000
    with pytest.raises(RunCancelledError):
        await run.result(TIMEOUT_S)
    assert len(noticing.entries(run_id="noticed", kind="started")) == 1


async def test_a_deadline_ends_a_run_even_if_its_manager_is_another_by_then(
    noticing: Fleet, client: AsyncFlujoClient
) -> None:
    began_ms = now_ms()
    run = await client.submit("notices", 1, run_id="late", deadline_s=1.5)
    await client.submit("notices", 1, run_id="late", deadline_s=60)  # the same run: it keeps its deadline
    await noticing.started("late", "0")
    manager = next(process for process in noticing.processes.values() if "manager" in str(process.args))
    manager.kill()
    await asyncio.to_thread(manager.wait)
    noticing.manager()

    with pytest.raises(RunCancelledError, match="its deadline is past"):
        await run.result(TIMEOUT_S)
    assert await _noticed_ms(noticing, "late") - began_ms >= 1_500
    assert not await client.client.zcard(client.keyspace.shard("deadlines"))


async def test_a_run_that_ends_before_its_deadline_is_taken_off_the_list(
    noticing: Fleet, client: AsyncFlujoClient
) -> None:
    run = await client.submit("notices", 1, run_id="in-time", deadline_s=1)
    await run.cancel()
    with pytest.raises(RunCancelledError, match="cancelled by the client"):
        await run.result(TIMEOUT_S)

    async def forgotten() -> bool:
        return not await client.client.zcard(client.keyspace.shard("deadlines"))

    await noticing.until(forgotten, "its deadline is forgotten")
