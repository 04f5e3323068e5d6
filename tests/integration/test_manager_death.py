"""One of two managers dies where it has a dispatch in hand: the other one goes on with the step within five seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable

import pytest

from flujo_client import AsyncFlujoClient
from tests.integration.conftest import Fleet

#: What is promised.
WITHIN_MS = 5_000


@pytest.fixture
async def fleet(make_own_fleet: Callable[..., Fleet]) -> Fleet:
    """One worker; the managers are the test's."""
    made = make_own_fleet("manager-death")
    made.worker()
    await made.ready(1)
    return made


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=fleet.settings()) as connected:
        await fleet.published(connected, "steady")
        yield connected


async def _stopped_heir(fleet: Fleet) -> subprocess.Popen[bytes]:
    """A manager that is at work, and then stopped, so that the other one is the one who comes by its place."""
    heir = fleet.manager()
    await fleet.until(lambda: "serving the pool" in fleet.log_of(heir), "the heir serves")
    os.kill(heir.pid, signal.SIGSTOP)
    return heir


async def _dead(fleet: Fleet, doomed: subprocess.Popen[bytes]) -> None:
    await fleet.until(lambda: doomed.poll() is not None, "the manager dies at its place")
    assert doomed.returncode == -signal.SIGKILL


async def _goes_on_ms(fleet: Fleet, heir: subprocess.Popen[bytes], run_id: str) -> int:
    """From the death of the other to the first step's start."""
    died_ms = time.time_ns() // 1_000_000
    os.kill(heir.pid, signal.SIGCONT)
    (started,) = await fleet.started(run_id, "0")
    return int(started["at_ms"]) - died_ms


async def test_between_the_journal_and_the_publication(fleet: Fleet, client: AsyncFlujoClient) -> None:
    heir = await _stopped_heir(fleet)
    doomed = fleet.manager(FLUJO_FAILPOINT="before:publish")
    run = await client.submit("steady", 1)
    await _dead(fleet, doomed)

    assert await _goes_on_ms(fleet, heir, run.run_id) <= WITHIN_MS


async def test_between_the_right_to_publish_again_and_the_publication(fleet: Fleet, client: AsyncFlujoClient) -> None:
    """The journal says that it was published again; it was not."""
    heir = await _stopped_heir(fleet)
    first = fleet.manager(FLUJO_FAILPOINT="before:publish")
    run = await client.submit("steady", 1)
    await _dead(fleet, first)
    second = fleet.manager(FLUJO_FAILPOINT="after:redispatch")
    await _dead(fleet, second)

    assert await _goes_on_ms(fleet, heir, run.run_id) <= WITHIN_MS
