"""Results, outcomes, errors and traces of runs on a real fleet, as their followers see them."""

from __future__ import annotations

import asyncio

import pytest

from flujo_client import (
    AsyncFlujoClient,
    Failure,
    Flujo,
    RunStatus,
    Success,
    UsageLimitExceededError,
    UsageLimits,
    to_outcome,
    unwrap,
)
from flujo_client.client import AsyncRun
from flujo_client.protocol.traces import TraceSpan
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.pipelines import Summary, digest, failing
from tests.integration.test_cli import document


async def test_the_trace_of_a_run_on_workers_is_the_same_for_its_caller_and_for_any_follower(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    limits = UsageLimits(total_tokens_limit=100)
    async with Flujo(digest, settings=fleet.settings(), usage_limits=limits) as flujo, asyncio.timeout(TIMEOUT_S):
        result = await flujo.run_async({"url": "abc"}, run_id="traced")

    root = result.trace_tree
    assert isinstance(root, TraceSpan)
    assert await client.run("traced").trace() == root
    assert [child.name for child in root.children] == ["fetch", "read", "combine"]
    assert [child.name for child in root.children[1].children] == ["shout", "measure"]
    assert root.attributes["flujo.budget.initial_tokens"] == 100
    assert root.children[0].attributes["flujo.budget.quota_before_tokens"] == 100
    assert sum(step.attributes["flujo.budget.actual_tokens"] for step in _steps(root)) == result.total_tokens == 9
    shown = await document(fleet, "trace", "traced")
    assert TraceSpan.model_validate(shown) == root


def _steps(span: TraceSpan) -> list[TraceSpan]:
    own = [span] if span.attributes.get("flujo.step.type") == "step" else []
    return own + [step for child in span.children for step in _steps(child)]


async def test_a_run_is_traced_while_it_runs(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "holding")
    run = await client.submit("holding", "traced-live", run_id="traced-live")
    await fleet.started("traced-live", "0")

    root = await run.trace()

    assert (await run.status(), root.status, root.end_time) == (RunStatus.RUNNING, "running", None)
    assert [(child.name, child.status, child.end_time) for child in root.children] == [("held", "running", None)]
    await run.cancel()
    await fleet.until(lambda: _ended(run), "the run has ended")
    assert (await run.trace()).attributes["flujo.status"] == "cancelled"


async def _ended(run: AsyncRun) -> bool:
    return (await run.status()).terminal


async def test_outcomes_and_errors_of_workers_reach_the_caller_with_their_data(fleet: Fleet) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        good = [item async for item in Flujo(digest, settings=fleet.settings()).run_outcomes_async({"url": "abc"})]
        bad = [item async for item in Flujo(failing, settings=fleet.settings()).run_stream(1)]

    assert isinstance(good[-1], Success)
    assert unwrap(good[-1]) == Summary(text="ABC 3")
    assert isinstance(bad[-1], Failure)
    assert bad[-1].step_result is not None
    assert bad[-1].step_result.name == "hopeless"


async def test_a_limits_error_carries_its_result_to_any_follower(client: AsyncFlujoClient, fleet: Fleet) -> None:
    await fleet.published(client, "digest")
    run = await client.submit("digest", {"url": "abc"}, usage_limits=UsageLimits(total_tokens_limit=1))

    with pytest.raises(UsageLimitExceededError) as caught:
        await run.result(TIMEOUT_S)

    assert caught.value.result.status is RunStatus.FAILED
    assert caught.value.data["meter"] == "tokens"
    assert to_outcome(caught.value.result).kind == "failure"
