"""A namespace of two shards on a fleet: runs of both, one look at all of them, and named accounts that they share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count

import pytest

from flujo_client import Account, AsyncFlujoClient, RunStatus, UsageLimitExceededError, UsageLimits
from flujo_client.account_audit import AccountAuditor
from flujo_client.inspection import RunInspector
from tests.integration.conftest import Fleet
from tests.integration.test_accounts import most_at_once


@pytest.fixture(scope="module")
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet("shards", FLUJO_SHARDS="2")
    made.manager()
    made.worker()
    asyncio.run(made.ready(1))
    return made


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=fleet.settings()) as connected:
        yield connected


def one_a_shard(client: AsyncFlujoClient, name: str) -> list[str]:
    """A run id that lies on each shard."""
    return [
        next(run_id for n in count() if client.keyspace.shard_of(run_id := f"{name}-{n}") == shard)
        for shard in range(client.keyspace.shards)
    ]


async def test_runs_of_all_shards_keep_the_limits_of_accounts_that_they_share(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "narrow")
    await client.accounts.define(Account(name="key", slots=3, when_exhausted="wait"))
    await client.accounts.define(Account(name="cap", limits=UsageLimits(total_tokens_limit=95)))

    slotted = [
        await client.submit("narrow", 1, run_id=run_id, accounts=["key"]) for run_id in one_a_shard(client, "narrow")
    ]
    capped = [
        await client.submit("shared", 1, run_id=run_id, accounts=["cap"]) for run_id in one_a_shard(client, "shared")
    ]
    results = [await run.result(timeout_s=60) for run in slotted]
    ends = await asyncio.gather(*(run.result(timeout_s=60) for run in capped), return_exceptions=True)

    assert [result.status for result in results] == [RunStatus.COMPLETED] * 2
    assert most_at_once([entry for run in slotted for entry in fleet.entries(run_id=run.run_id)], 0) <= 3
    assert any(isinstance(end, UsageLimitExceededError) for end in ends), "two runs of 60 tokens, and 95"
    assert sum(len(fleet.entries(kind="bill", run_id=run.run_id)) for run in capped) <= 9
    spent = (await client.accounts.status("cap")).meters["tokens"]
    assert spent.spent + spent.reserved + spent.unknown <= 95
    assert (await client.accounts.status("key")).meters["slots"].reserved == 0
    assert await AccountAuditor(client.client, client.keyspace, 10**9).audit() == []
    listed = await RunInspector(client.client, client.keyspace, client.specs).runs()
    assert {run.run_id for run in (*slotted, *capped)} <= {run.run_id for run in listed}
