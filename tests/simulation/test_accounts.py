"""Named accounts on many schedules of the production code: whatever dies, stalls, repeats or is lost, they hold nothing at rest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flujo_client import Account, Pipeline, Step, UsageLimits
from flujo_client.account_book import AccountBook
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.scripts import Scripts
from tests.faults.workload import TOKENS_EXPECTED
from tests.simulation.test_schedules import FAULTS, told_by
from tests.simulation.world import KEYSPACE, REDIS, REGISTRY, Fault, World, carry, join

pytestmark = pytest.mark.timeout(3600)

SCHEDULES = int(os.environ.get("TEST_SCHEDULES", "1000")) // 4

SLOTS, PER_WINDOW, WINDOW_S = 2, 12, 5
CAP = 100 * TOKENS_EXPECTED
ACCOUNTS = (
    Account(name="narrow", slots=SLOTS, when_exhausted="wait"),
    Account(
        name="pace",
        limits=UsageLimits(meters={"requests": PER_WINDOW}),
        window=timedelta(seconds=WINDOW_S),
        when_exhausted="wait",
    ),
    Account(name="day", limits=UsageLimits(total_tokens_limit=CAP), window="day", pipelines=("shared",)),
)


def _pipeline() -> Pipeline:
    terms: dict[str, Any] = {"max_retries": 0, "expected_tokens": TOKENS_EXPECTED, "accounts": ("narrow", "pace")}
    carried: Any = Step.from_callable(carry, name="carry", **terms)
    joined: Any = Step.from_callable(join, name="join", **terms)
    branches: dict[str, Any] = {"a": carried, "b": carried >> carried, "c": carried, "d": carried}
    shared: Pipeline = carried >> Step.parallel("split", branches) >> joined
    return shared.named("shared")


SHARED = REGISTRY.add(_pipeline())


@dataclass
class Sharing(World):
    """Two runs that share slots, a pace and a day."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.runs = dict.fromkeys(self.runs, SHARED)

    async def _play(self) -> None:
        scripts = Scripts(ScriptCaller(REDIS), KEYSPACE)
        await scripts.publish_spec(SHARED.name, SHARED.content_hash, SHARED.model_dump_json().encode())
        book = AccountBook(scripts)
        for account in ACCOUNTS:
            await book.define(account)
        await super()._play()
        for account in ACCOUNTS:
            status = await book.status(account.name)
            if status.waiting or any(row.reserved for row in status.meters.values()):
                self.told.append(f"held at rest: {status}")
            for meter, row in status.meters.items():
                if row.spent + row.unknown > row.limit:
                    self.told.append(f"{account.name} {meter} is over its limit: {row}")
        spent = (await book.status("day")).meters["tokens"]
        billed = sum(line["tokens"] for line in self.ledger if line["kind"] == "bill")
        if billed > spent.spent + spent.unknown:
            self.told.append(f"billed {billed}, and the account knows of {spent}")
        self._judge_pace()

    def _judge_pace(self) -> None:
        """No window has more starts than the pace allows, but for those of processes that stood still on the way."""
        starts = sorted(
            line["at_ms"] for line in self.ledger if line["kind"] == "started" and line["pid"] not in self.excused
        )
        for at in starts:
            count = sum(at <= other < at + WINDOW_S * 1000 for other in starts)
            if count > PER_WINDOW:
                self.told.append(f"{count} starts within {WINDOW_S} s from {at}")


def test_a_schedule_without_faults_ends_and_leaves_nothing_held() -> None:
    world = Sharing(7, [])

    assert world.play() == []
    assert len([line for line in world.ledger if line["kind"] == "started"]) == 2 * 7


@settings(
    max_examples=SCHEDULES,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(seed=st.integers(0, 2**32), faults=st.lists(FAULTS, max_size=6))
def test_named_accounts_are_right_at_the_end_of_every_schedule(seed: int, faults: list[Fault]) -> None:
    assert told_by(Sharing(seed, faults)) == []
