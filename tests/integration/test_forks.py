"""Forks from inside every kind of composite, by real workers: what does not depend on the step is billed to nobody again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from flujo_client import AsyncFlujoClient, RunStatus, UsageLimits
from flujo_client.audit import Auditor
from flujo_client.protocol.accounts import read_accounts
from tests.integration.conftest import TIMEOUT_S, Fleet


@pytest.fixture(scope="module")
def forks(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker."""
    fleet = make_fleet("forks", FLUJO_PIPELINES="tests.integration.forks")
    fleet.manager()
    fleet.worker()
    asyncio.run(fleet.ready(1))
    return fleet


@pytest.mark.parametrize(
    ("kind", "start", "again"),
    [
        ("parallel", "b", ["1.0.1", "2"]),
        ("parallel", "1.1.0", ["1.1.0", "1.1.1", "2"]),
        ("narrow", "c", ["1.0.0", "2"]),
        ("narrow", "a", ["1.1.0", "1.1.1", "2"]),
        ("loop", "1.1.1", ["1.1.1", "1.2.0", "1.2.1", "2"]),
        ("loop", "b", ["1.2.1", "2"]),
        ("router", "b", ["1.1.0.1", "2"]),
        ("router", "1.1", ["1.1.0.0", "1.1.0.1", "1.1.2.0", "2"]),
        ("machine", "two", ["1.4.0", "1.8.0", "2"]),
        ("conditional", "b", ["1.0.1", "2"]),
        ("conditional", "1", ["1.0.0", "1.0.1", "2"]),
        ("cached", "b", ["1.0.0.0.1", "2"]),
        ("pipeline", "b", ["1.0.1", "2"]),
        ("map", "1.0.1.1.1", ["1.0.1.1.1", "2"]),
        ("map", "each", [f"1.0.1.{item}.{place}" for item in range(3) for place in (0, 1)] + ["2"]),
    ],
)
async def test_a_fork_begins_anywhere_and_bills_only_what_depends_on_it(
    forks: Fleet, kind: str, start: str, again: list[str]
) -> None:
    limits = UsageLimits(total_tokens_limit=100)
    run_id = f"{kind}-{uuid4().hex[:6]}"
    async with AsyncFlujoClient(settings=forks.settings()) as client:
        await forks.published(client, f"forkable_{kind}")
        submitted = await client.submit(f"forkable_{kind}", run_id, run_id=run_id, usage_limits=limits)
        first = await submitted.result(TIMEOUT_S)

        fork = await client.fork(run_id, start, new_run_id=f"{run_id}-fork")
        result = await fork.result(TIMEOUT_S)
        accounts = await client.client.hgetall(client.keyspace.run(fork.run_id).accounts)
        differences = await Auditor(client.client, client.keyspace).audit(fork.run_id)

    assert first.status is RunStatus.COMPLETED
    assert (result.status, result.output, result.usage) == (first.status, first.output, first.usage)
    assert result.final_pipeline_context.call_count == first.final_pipeline_context.call_count > 3
    assert sorted(entry["path"] for entry in forks.entries(run_id=fork.run_id, kind="bill")) == again
    assert differences == []
    rows = read_accounts({name.decode(): value.decode() for name, value in accounts.items()})
    (root,) = [row for row in rows if row.account == "root"]
    assert (root.granted, root.spent + root.children) == (100, first.usage["tokens"])


async def test_a_fork_of_a_fork_reuses_what_both_have_paid(forks: Fleet) -> None:
    run_id = f"twice-{uuid4().hex[:6]}"
    async with AsyncFlujoClient(settings=forks.settings()) as client:
        await forks.published(client, "forkable_loop")
        first = await (await client.submit("forkable_loop", "x", run_id=run_id)).result(TIMEOUT_S)
        second = await client.fork(run_id, "1.1.0", new_run_id=f"{run_id}-2")
        await second.result(TIMEOUT_S)

        third = await client.fork(second.run_id, "1.2.1", new_run_id=f"{run_id}-3")
        result = await third.result(TIMEOUT_S)
        differences = await Auditor(client.client, client.keyspace).audit(third.run_id)

    assert [entry["path"] for entry in forks.entries(run_id=third.run_id, kind="bill")] == ["1.2.1", "2"]
    assert result.usage == first.usage
    assert result.final_pipeline_context.call_count == first.final_pipeline_context.call_count
    assert differences == []
