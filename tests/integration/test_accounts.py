"""Named accounts on a fleet: runs that share a budget are refused by it, or wait for it, and killed workers hold nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from flujo_client import Account, AsyncFlujoClient, RunStatus, UsageLimitExceededError, UsageLimits
from tests.integration.conftest import Fleet

TOKENS_35 = UsageLimits(total_tokens_limit=35)


def most_within(times_ms: Sequence[int], window_ms: int) -> int:
    """The most of some moments that lie in any window of a length."""
    return max(sum(start <= at < start + window_ms for at in times_ms) for start in times_ms)


async def test_a_day_that_is_spent_refuses_the_run_and_names_the_account(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "shared")
    await client.accounts.define(Account(name="day", limits=TOKENS_35, window="day", time_zone="Europe/Berlin"))
    run = await client.submit("shared", 1, run_id="over-the-day", accounts=["day"])

    with pytest.raises(UsageLimitExceededError, match="Token limit of 35 exceeded") as caught:
        await run.result(timeout_s=30)

    assert (caught.value.data["account"], caught.value.data["meter"]) == ("day", "tokens")
    assert len(fleet.entries(kind="bill", run_id="over-the-day")) <= 3
    status = await client.accounts.status("day")
    assert status.meters["tokens"].spent <= 35
    assert status.turns_at_ms > 0


async def test_runs_wait_until_the_window_has_room_and_together_never_exceed_it(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "shared")
    window = timedelta(seconds=2)
    await client.accounts.define(Account(name="pace", limits=TOKENS_35, window=window, when_exhausted="wait"))
    runs = [await client.submit("shared", 1, run_id=f"paced-{number}", accounts=["pace"]) for number in range(2)]

    results = [await run.result(timeout_s=60) for run in runs]

    assert [result.status for result in results] == [RunStatus.COMPLETED] * 2
    bills = [entry["at_ms"] for entry in fleet.entries(kind="bill") if entry["run_id"].startswith("paced-")]
    assert len(bills) == 12
    assert most_within(bills, 2_000) <= 3
    assert max(bills) - min(bills) < 9_000  # four windows' starts, and what it takes to notice


async def test_slots_are_free_again_when_the_worker_that_held_them_is_killed(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "narrow")
    await client.accounts.define(Account(name="key", slots=2, when_exhausted="wait"))
    victim = fleet.worker()
    await fleet.ready(3)
    run = await client.submit("narrow", 1, run_id="narrow", accounts=["key"])

    await fleet.until(lambda: fleet.entries(kind="started", run_id="narrow"), "a step has started")
    victim.kill()
    result = await run.result(timeout_s=60)

    assert result.status is RunStatus.COMPLETED
    assert most_at_once(fleet.entries(run_id="narrow"), victim.pid) <= 2
    status = await client.accounts.status("key")
    assert (status.meters["slots"].reserved, status.waiting) == (0, 0)


def most_at_once(entries: Sequence[dict[str, Any]], killed: int) -> int:
    """How many bodies ran at the same time; those of a killed process ended with it."""
    running, most = 0, 0
    for entry in sorted(entries, key=lambda entry: entry["at_ms"]):
        if killed not in (entry["pid"], entry["parent"]):
            running += 1 if entry["kind"] == "started" else -1
            most = max(most, running)
    return most
