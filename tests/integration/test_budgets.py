"""Budgets in process and on a fleet: the same pipelines, the same outcome."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from typer.testing import CliRunner

from flujo_client import (
    Account,
    AsyncFlujoClient,
    Flujo,
    OnLimitWarningPayload,
    Pipeline,
    RunStatus,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from flujo_client.cli.main import app
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import EventKind
from tests.integration.budgets import crowd, one, shared, weighted
from tests.integration.conftest import Fleet, account_fields
from tests.integration.test_cli import document as cli_document
from tests.integration.test_cli import flujo


@pytest.fixture(params=["in process", "on a fleet"])
def where(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    if request.param == "in process":
        monkeypatch.setenv("TEST_LEDGER", str(tmp_path_factory.mktemp("ledger") / "ledger"))
        return {}
    fleet: Fleet = request.getfixturevalue("fleet")
    return {"settings": fleet.settings()}


async def test_branches_that_ask_for_more_than_their_share_wait_and_all_complete(where: dict[str, Any]) -> None:
    """100 tokens for six branches that ask for 40 each: none is refused, since what they leave is enough."""
    async with Flujo(crowd, usage_limits=UsageLimits(total_tokens_limit=100), **where) as flujo:
        result = await flujo.run_async(1, run_id="crowd")

        assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 60)
        assert [part.attempts for part in result.step_history[0].step_history] == [1] * 6


async def test_weighted_branches_have_their_shares_and_nobody_waits(where: dict[str, Any]) -> None:
    async with Flujo(weighted, usage_limits=UsageLimits(total_tokens_limit=100), **where) as flujo:
        result = await flujo.run_async(1, run_id="weighted")
        fields = await account_fields(flujo, "weighted")

    assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 100)
    shares = read_accounts({name: value for name, value in fields.items() if name.startswith("split|")})
    assert [(row.account, row.granted) for row in shares] == [("0.0", 70), ("0.1", 30)]
    assert "grants" not in fields  # nobody ever waited


@pytest.mark.timeout(900)
async def test_ten_thousand_branches_by_weights() -> None:
    """As many as a split may have to share out, from the pipeline to its result."""
    weights = {f"b{index}": 1 + index % 7 for index in range(10_000)}
    pipeline = Pipeline([Step.parallel("wide", dict.fromkeys(weights, one), split=weights)], name="wide")
    cap = sum(weights.values())
    async with Flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=cap)) as flujo:
        result = await flujo.run_async(1, run_id="wide")
        fields = await account_fields(flujo, "wide")

    assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 10_000)
    shares = read_accounts({name: value for name, value in fields.items() if name.startswith("split|")})
    assert [row.granted for row in shares] == list(weights.values())
    root = next(row for row in read_accounts(fields) if row.account == "root")
    assert (root.free, root.use) == (cap - 10_000, 10_000)


async def test_a_branch_that_the_whole_tree_cannot_pay_is_refused_with_the_facts(where: dict[str, Any]) -> None:
    async with Flujo(crowd, usage_limits=UsageLimits(total_tokens_limit=75), **where) as flujo:
        with pytest.raises(UsageLimitExceededError, match="Token limit of 75 exceeded") as caught:
            await flujo.run_async(1, run_id="poor")

    data = caught.value.data
    assert (data["meter"], data["asked"]) == ("tokens", 40)
    assert data["free"] < 40


async def test_a_limit_that_is_near_is_heard_by_the_callers_hooks_once(where: dict[str, Any]) -> None:
    heard: list[OnLimitWarningPayload] = []

    async def hear(payload: OnLimitWarningPayload) -> None:
        heard.append(payload)

    async with Flujo(shared, usage_limits=UsageLimits(total_tokens_limit=62), hooks=[hear], **where) as flujo:
        await flujo.run_async(1, run_id="near")

    assert [(payload.meter, payload.used, payload.limit) for payload in heard] == [("tokens", 50, 62)]


async def test_who_waited_holds_no_worker_and_its_events_say_so(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "crowd")
    run = await client.submit("crowd", 1, run_id="seen", usage_limits=UsageLimits(total_tokens_limit=100))
    await run.result(timeout_s=30)

    events = [event async for event in run.events()]
    blocked = [event.path for event in events if event.kind is EventKind.BLOCKED]
    woken = [event.path for event in events if event.kind is EventKind.UNBLOCKED]
    assert len(blocked) >= 3  # shares are 16: nobody can pay before the last of six is stuck
    assert sorted(woken) == sorted({*blocked, *woken})
    assert len([event for event in events if event.kind is EventKind.SUCCEEDED]) == 6


async def test_steps_that_wait_leave_the_only_slot_of_the_only_worker_to_other_runs(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    """One waits for its run's budget, the others for a named account."""
    fleet = make_own_fleet("single")
    fleet.manager()
    fleet.worker("--concurrency", "1")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        for pipeline in ("apart", "shared", "weighted"):
            await fleet.published(client, pipeline)
        day = Account(name="day", limits=UsageLimits(total_tokens_limit=10), window="day", when_exhausted="wait")
        await client.accounts.define(day)
        waiting = await client.submit("apart", 1, usage_limits=UsageLimits(total_tokens_limit=60))
        delayed = await client.submit("shared", 1, run_id="delayed", accounts=["day"])

        async for event in waiting.events():
            if event.kind is EventKind.BLOCKED:
                break  # its branch waits for what the sibling may give back
        await fleet.until(lambda: fleet.entries(kind="bill", run_id="delayed"), "the day is spent")
        result = await (await client.submit("weighted", 1)).result(timeout_s=30)

        assert result.total_tokens == 100
        assert (await waiting.status(), await delayed.status()) == (RunStatus.RUNNING, RunStatus.RUNNING)
        assert len(fleet.entries(kind="bill", run_id="delayed")) == 1


async def test_workers_learn_what_a_step_uses_and_managers_reserve_that(fleet: Fleet, client: AsyncFlujoClient) -> None:
    """Two branches expect 50 of 60 tokens, so that one waits; once it is known that they use 10 none does."""
    await fleet.published(client, "learning")
    numbers = itertools.count()

    async def waits() -> bool:
        run = await client.submit(
            "learning", 1, run_id=f"learning-{next(numbers)}", usage_limits=UsageLimits(total_tokens_limit=60)
        )
        assert (await run.result(timeout_s=60)).total_tokens == 20
        return EventKind.BLOCKED in [event.kind async for event in run.events()]

    async def nobody_waits() -> bool:
        return not await waits()

    assert await waits()
    unlimited = [await client.submit("learning", 1, run_id=f"teaching-{number}") for number in range(10)]
    for run in unlimited:
        await run.result(timeout_s=60)

    await fleet.until(nobody_waits, "what was learned is reserved")


async def test_show_draws_the_tree_of_accounts_with_what_is_blocked(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "pair")
    run = await client.submit("pair", "shown", run_id="shown", usage_limits=UsageLimits(total_tokens_limit=60))

    async def document() -> dict[str, Any]:
        shown: dict[str, Any] = await cli_document(fleet, "show", "shown")
        return shown if len(shown["waiters"]) == 1 and fleet.entries(kind="started", run_id="shown") else {}

    shown = await fleet.until(document, "one branch holds the budget, and the other waits for it")
    drawn = (await flujo(fleet, "show", "shown", "--budget")).stdout.splitlines()
    await run.cancel()

    (waiter,) = shown["waiters"]
    assert (waiter["name"], waiter["meter"], waiter["asked"]) == ("held", "tokens", 40)
    assert waiter["free"] < 40
    rows = {row["account"]: row for row in shown["accounts"]}
    assert sorted(rows[branch]["reserved"] for branch in ("0.0", "0.1")) == [0, 40]
    titles = next(line.split() for line in drawn if line.startswith("account"))
    assert titles == ["account", "meter", "granted", "spent", "reserved", "unknown", "children", "blocked", "free"]
    assert [line.split()[:2] for line in drawn if line.startswith("  0.")] == [["0.0", "first"], ["0.1", "second"]]
    assert any(line.startswith(f"◌ {waiter['path']} held  waits for 40 tokens") for line in drawn)


def test_an_audit_finds_what_was_changed_and_nothing_else(fleet: Fleet) -> None:
    async def run_one() -> None:
        async with AsyncFlujoClient(settings=fleet.settings()) as client:
            await fleet.published(client, "crowd")
            run = await client.submit("crowd", 1, run_id="audited", usage_limits=UsageLimits(total_tokens_limit=100))
            await run.result(timeout_s=60)

    asyncio.run(run_one())
    environment = {"FLUJO_URL": fleet.url}

    clean = CliRunner().invoke(app, ["audit", "--json"], env=environment)
    document = json.loads(clean.stdout.splitlines()[-1])
    assert (clean.exit_code, document["differences"]) == (0, [])
    assert document["runs"] >= 1
    with redis.Redis.from_url(fleet.url) as store:
        key = Keyspace("flujo").run("audited").accounts
        row = cast("bytes", store.hget(key, "0.0|tokens")).split()
        store.hset(key, "0.0|tokens", b" ".join([*row[:2], b"%d" % (int(row[2]) + 1), *row[3:]]))
    changed = CliRunner().invoke(app, ["audit", "audited"], env=environment)

    assert changed.exit_code == 1
    assert "audited account 0.0: tokens spent is 11 and should be 10" in changed.stdout
    with redis.Redis.from_url(fleet.url) as store:
        store.hset(key, "0.0|tokens", b" ".join(row))
        store.delete(Keyspace("flujo").run("audited").attempts)  # as two hours after its end
    assert CliRunner().invoke(app, ["audit", "audited"], env=environment).exit_code == 0
