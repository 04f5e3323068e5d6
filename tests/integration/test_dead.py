"""Dead letters on a fleet: listed with their stories, run again, dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.results import RunStatus
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.test_cli import document, flujo

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def poisoned(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager, and a queue of poison that nobody serves yet."""
    made = make_fleet("dead", FLUJO_PIPELINES="tests.faults.workload,tests.faults.poison")
    made.manager()
    made.worker("--queues", "default")
    asyncio.run(made.ready(1))
    return made


@pytest.fixture
async def client(poisoned: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=poisoned.settings()) as connected:
        yield connected


async def _killed_workers(fleet: Fleet, client: AsyncFlujoClient, run_id: str, status: RunStatus) -> int:
    """Workers, one after the other, until the run stands so; how many died."""
    died = 0

    async def stands() -> bool:
        nonlocal died
        if not any(process.poll() is None for process in serving):
            died += len(serving) > 0
            serving.append(fleet.worker("--queues", "poison"))
        return bool(await client.run(run_id).status() is status)

    serving = []  # type: ignore[var-annotated]  # of processes
    await fleet.until(stands, f"{run_id} is {status.value}")
    return died


async def test_a_step_that_pauses_is_retried_where_it_stands(poisoned: Fleet, client: AsyncFlujoClient) -> None:
    await poisoned.published(client, "fragile_waits")
    run = await client.submit("fragile_waits", 1, run_id="dead-waits")
    await _killed_workers(poisoned, client, run.run_id, RunStatus.PAUSED)

    (letter,) = (await document(poisoned, "dead"))["dead"]
    assert (letter["run_id"], letter["step"], letter["waits"]) == ("dead-waits", "fragile", True)
    assert "crashed its worker 1 time" in letter["story"]
    (place,) = await run.pauses()
    assert (place.token, place.dead_letter) == ("1", True)
    for token in ((), ("--token", "1")):
        answered = await flujo(poisoned, "resume", "dead-waits", "hello", *token)
        assert answered.returncode == 1
        assert "`flujo dead retry dead-waits`" in " ".join(answered.stderr.split())
    assert "--token" not in (await flujo(poisoned, "show", "dead-waits")).stdout
    poisoned.open_gate("dead-waits")
    assert (await document(poisoned, "dead", "retry", "dead-waits"))["goes_on_as"] == "dead-waits"
    poisoned.worker("--queues", "poison")

    assert (await run.result(TIMEOUT_S)).success
    assert len(poisoned.entries(run_id="dead-waits", path="0")) == 1, "what was committed is not paid again"
    assert (await document(poisoned, "dead"))["dead"] == []
    again = await flujo(poisoned, "dead", "retry", "dead-waits")
    assert again.returncode == 1
    assert "no dead letter" in again.stderr


async def test_a_step_that_kills_three_workers_is_a_dead_letter_until_it_is_dropped(
    poisoned: Fleet, client: AsyncFlujoClient
) -> None:
    await poisoned.published(client, "fragile_fails")
    for process in list(poisoned.processes.values())[2:]:
        process.terminate()
        await asyncio.to_thread(process.wait)
    run = await client.submit("fragile_fails", 1, run_id="dead-fails")
    await _killed_workers(poisoned, client, run.run_id, RunStatus.FAILED)
    await run.result(TIMEOUT_S)

    (letter,) = (await document(poisoned, "dead"))["dead"]
    assert letter["story"] == "step 'fragile' crashed its worker 3 times"
    assert not letter["waits"]
    assert (await document(poisoned, "dead", "drop", "dead-fails"))["dropped"]
    assert (await flujo(poisoned, "dead")).stdout == "no dead letters\n"


async def test_a_fork_that_dies_as_well_is_retried_and_one_that_has_completed_is_told(
    poisoned: Fleet, client: AsyncFlujoClient
) -> None:
    await poisoned.published(client, "fragile_fails")
    for process in list(poisoned.processes.values())[2:]:
        process.terminate()
        await asyncio.to_thread(process.wait)
    run = await client.submit("fragile_fails", 1, run_id="dies")
    await _killed_workers(poisoned, client, run.run_id, RunStatus.FAILED)
    assert (await document(poisoned, "dead", "retry", "dies"))["goes_on_as"] == "dies.again-1"
    assert (await document(poisoned, "dead", "retry", "dies"))["goes_on_as"] == "dies.again-1", "it is under way"
    await _killed_workers(poisoned, client, "dies.again-1", RunStatus.FAILED)
    assert [letter["run_id"] for letter in (await document(poisoned, "dead"))["dead"]] == ["dies.again-1"]

    poisoned.open_gate("dies.again-2")
    assert (await document(poisoned, "dead", "retry", "dies"))["goes_on_as"] == "dies.again-2"
    poisoned.worker("--queues", "poison")
    assert (await client.run("dies.again-2").result(TIMEOUT_S)).success

    assert (await document(poisoned, "dead"))["dead"] == []
    done = await flujo(poisoned, "dead", "retry", "dies")
    assert done.returncode == 1
    assert "ran again in dies.again-2, which is completed" in " ".join(done.stderr.split())
