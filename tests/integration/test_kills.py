"""Worker, manager and submitting client, each killed at ten seeded moments: every run ends and nothing is paid twice.

A moment is exact: in every round some runs are held inside a seeded step, before or after its bill, while others flow
freely, and the kill comes when the ledger has a seeded number of bills.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.keys import POOL
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.pipelines import STAGES

SEEDS = 10
FREE_RUNS = 6

Record = Callable[[str, object], None]


@dataclass(frozen=True)
class Moment:
    """When a round's kill comes: two runs are held, and so many bills of the free ones are written."""

    seed: int
    kind: str
    held_at: tuple[int, int]
    billed_first: bool
    free_bills: int

    @classmethod
    def of(cls, seed: int, kind: str) -> Moment:
        chance = random.Random(f"{kind} {seed}")
        held_at = chance.randrange(STAGES), chance.randrange(STAGES)
        return cls(seed, kind, held_at, chance.random() < 0.5, chance.randrange(1, FREE_RUNS * STAGES))

    @property
    def held(self) -> dict[str, int]:
        """The held runs, and at which step."""
        return {f"{self.kind}-{self.seed}-held-{number}": at for number, at in enumerate(self.held_at)}

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """The inputs of all runs."""
        free: dict[str, dict[str, Any]] = {f"{self.kind}-{self.seed}-free-{number}": {} for number in range(FREE_RUNS)}
        return free | {run_id: {"hold_at": at, "billed_first": self.billed_first} for run_id, at in self.held.items()}

    async def comes(self, fleet: Fleet) -> None:
        """Wait for it."""

        def reached() -> bool:
            bills = [entry["run_id"] for entry in fleet.entries(kind="bill")]
            kind = "bill" if self.billed_first else "started"
            inside = all(fleet.entries(kind=kind, run_id=run_id, path=str(at)) for run_id, at in self.held.items())
            return (
                inside and sum(run_id in self.inputs and run_id not in self.held for run_id in bills) >= self.free_bills
            )

        await fleet.until(reached, f"the moment {self}")

    def release(self, fleet: Fleet) -> None:
        """Let the held runs go on."""
        for run_id in self.held:
            fleet.open_gate(run_id)


async def _submit(client: AsyncFlujoClient, moment: Moment) -> None:
    for run_id, value in moment.inputs.items():
        await client.submit("staged", value, run_id=run_id)


async def _all_end(client: AsyncFlujoClient, fleet: Fleet, moment: Moment, killed: Sequence[int] = ()) -> None:
    for run_id in moment.inputs:
        result = await client.run(run_id).result(TIMEOUT_S)
        assert result.output["number"] == STAGES
        await fleet.assert_paid_once(client, run_id, killed)


@pytest.mark.timeout(300)
async def test_workers_killed_at_seeded_moments(
    fleet: Fleet, client: AsyncFlujoClient, record_testsuite_property: Record
) -> None:
    killed: list[int] = []
    recoveries_ms: list[float] = []
    fleet.worker()  # a spare, so that no round waits for a process to start
    for seed in range(SEEDS):
        moment = Moment.of(seed, "worker")
        await fleet.ready(2)
        await _submit(client, moment)
        await moment.comes(fleet)
        held = {run_id: (await fleet.started(run_id, str(at)))[0] for run_id, at in moment.held.items()}
        victim = held[random.Random(seed).choice(list(held))]["pid"]

        killed_at_ms = time.time() * 1000
        os.kill(victim, signal.SIGKILL)
        killed.append(victim)
        fleet.worker()
        for run_id, first in held.items():
            if first["pid"] == victim:
                again = (await fleet.started(run_id, first["path"], times=2))[-1]
                assert again["pid"] != victim
                recoveries_ms.append(again["at_ms"] - killed_at_ms)
        moment.release(fleet)

        await _all_end(client, fleet, moment, killed)

    record_testsuite_property("worker_kill_recovery_ms_max", round(max(recoveries_ms)))
    assert max(recoveries_ms) < 5_000, f"from kill to rerun, ms: {sorted(map(round, recoveries_ms))}"


@pytest.mark.timeout(300)
async def test_managers_killed_at_seeded_moments(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("managers")
    fleet.worker()
    manager = fleet.manager()
    await fleet.ready(1)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "staged")
        for seed in range(SEEDS):
            moment = Moment.of(seed, "manager")
            await _submit(client, moment)
            await moment.comes(fleet)

            manager.kill()
            manager.wait()
            moment.release(fleet)
            manager = fleet.manager()

            await _all_end(client, fleet, moment)  # no worker died: nothing may have run twice


CALLER = """
import asyncio, json, sys
from flujo_client import Flujo
from tests.integration.pipelines import staged

async def main():
    async with Flujo(staged) as flujo:
        inputs = json.loads(sys.argv[1])
        await asyncio.gather(*(flujo.run_async(value, run_id=run_id)._result() for run_id, value in inputs.items()))

asyncio.run(main())
"""


@pytest.mark.timeout(300)
async def test_clients_killed_at_seeded_moments_leave_their_runs_to_the_pool(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    async def one_round(seed: int) -> None:
        moment = Moment.of(seed, "client")
        caller = fleet.start_process("-c", CALLER, json.dumps(moment.inputs), name="caller")
        await moment.comes(fleet)
        for run_id in moment.held:
            assert (await client.reader.record(run_id))["owner"].startswith("caller-")

        caller.kill()
        caller.wait()
        moment.release(fleet)

        await _all_end(client, fleet, moment)
        for run_id in moment.held:
            assert (await client.reader.record(run_id))["owner"] == POOL
            assert (await client.run(run_id).result(TIMEOUT_S)).left_by_caller

    for pair in range(0, SEEDS, 2):  # two at a time: most of a round is the start of a process
        await asyncio.gather(one_round(pair), one_round(pair + 1))
