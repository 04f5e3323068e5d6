"""Two runs of a hundred branches share an account, while their workers are killed and stopped and messages come twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable

import pytest

from flujo_client import Account, AsyncFlujoClient, UsageLimitExceededError, UsageLimits
from flujo_client.account_audit import AccountAuditor
from flujo_client.audit import Auditor
from tests.integration.conftest import Fleet
from tests.integration.test_budget_storm import Storm, outcome_of
from tests.storms import note_storm

FIRST = int(os.environ.get("TEST_STORM_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("TEST_STORM_SEEDS", "2")))


@pytest.fixture(scope="module")
def stormy(make_fleet: Callable[..., Fleet]) -> Fleet:
    fleet = make_fleet("account-storm")
    fleet.manager()
    return fleet


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
async def test_two_runs_never_bill_more_than_their_account_has_and_leave_nothing_held(stormy: Fleet, seed: int) -> None:
    cap = random.Random(seed).randrange(900, 2600)
    cap_name, key_name, names = f"cap-{seed}", f"key-{seed}", [f"shared-{seed}-{number}" for number in range(2)]
    async with AsyncFlujoClient(settings=stormy.settings()) as client:
        storm = Storm(stormy, client, seed)
        storm.workers = [process for process in stormy.processes.values() if process.poll() is None][1:]
        storm.start_workers()
        await stormy.published(client, "storm")
        limits = UsageLimits(total_tokens_limit=cap)
        await client.accounts.define(Account(name=cap_name, limits=limits))
        await client.accounts.define(Account(name=key_name, slots=10, when_exhausted="wait"))
        runs = [await client.submit("storm", 1, run_id=name, accounts=[cap_name, key_name]) for name in names]
        rage = asyncio.create_task(storm.rage(names[0]))
        errors = await asyncio.gather(*map(outcome_of, runs))
        await storm.calm(rage)

        async def at_rest() -> bool:
            stati = [await client.accounts.status(name) for name in (cap_name, key_name)]
            held = sum(row.reserved for status in stati for row in status.meters.values())
            return held == 0 and sum(status.waiting for status in stati) == 0

        await stormy.until(at_rest, "nothing is held or waits")
        retention_ms = client.settings.retention_s * 1000
        differences = await AccountAuditor(client.client, client.keyspace, retention_ms).audit()
        for name in names:
            differences += await Auditor(client.client, client.keyspace).audit(name)
        row = (await client.accounts.status(cap_name)).meters["tokens"]

    billed = sum(entry["tokens"] for entry in stormy.entries(kind="bill") if entry["run_id"] in names)
    outcomes = ", ".join(type(error).__name__ for error in errors)
    note_storm("account storm", {"seed": seed, **storm.done, "cap": cap, "billed": billed, "outcomes": outcomes})
    assert billed <= row.spent + row.unknown <= cap
    assert differences == []
    for error in filter(None, errors):
        assert isinstance(error, UsageLimitExceededError)
        assert (error.data["account"], error.data["meter"]) == (cap_name, "tokens")
        assert int(error.data["free"]) < int(error.data["asked"])
