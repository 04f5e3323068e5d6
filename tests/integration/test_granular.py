"""Granular steps: in process and on a fleet, the same pipelines and the same results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Flujo, Pipeline, PipelineResult, UsageLimitExceededError, UsageLimits
from tests.integration import granular
from tests.integration.conftest import Fleet


@pytest.fixture(scope="module")
def worker_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker, which has this module's pipelines."""
    made = make_fleet("granular", FLUJO_PIPELINES="tests.integration.granular")
    made.manager()
    made.worker()
    asyncio.run(made.ready(1))
    return made


Run = Callable[..., Any]


@pytest.fixture(params=["in process", "on a fleet"])
def run(request: pytest.FixtureRequest) -> Run:
    here = request.param == "in process"
    options: dict[str, Any] = {"resources": granular.Tools(), "context_model": granular.Desk}
    if not here:
        options = {"settings": request.getfixturevalue("worker_fleet").settings(), "context_model": granular.Desk}

    async def run_it(pipeline: Pipeline, value: Any, **more: Any) -> PipelineResult:
        async with Flujo(pipeline, **options, **more) as flujo:
            return await flujo.run_async(value)

    return run_it


async def test_an_agent_of_pydantic_ai_does_one_request_and_its_tools_in_a_turn(run: Run) -> None:
    result = await run(granular.looking, "where?")

    turns = result.step_history[0].step_history
    state = result.final_pipeline_context.granular_state
    assert result.output == "NOTHING AFTER 2 LOOKS"
    assert [turn.name for turn in turns] == ["look_around_turn"] * 3
    assert all(turn.cost_usd > 0 for turn in turns)
    assert (state["turn_index"], state["is_complete"], state["final_output"]) == (3, True, "nothing after 2 looks")
    assert [message["kind"] for message in state["history"]] == ["request", "response"] * 3


async def test_any_other_agent_goes_on_until_it_is_complete_and_gets_its_history(run: Run) -> None:
    result = await run(granular.writing, "moon")

    context = result.final_pipeline_context
    assert result.output == "MOON!!!"
    assert result.total_tokens == 31  # the shout is text
    assert len(set(context.keys)) == 3
    assert all(len(key) == 64 for key in context.keys)
    assert {"$blob", "bytes"} == context.granular_state["history"][0].keys()


async def test_turns_have_an_end(run: Run) -> None:
    result = await run(granular.unfinished, "moon")

    assert (result.success, result.step_history[0].feedback) == (False, "reached max_loops")
    assert result.step_history[0].attempts == 2


async def test_a_budget_that_is_used_up_ends_the_work_between_turns(run: Run) -> None:
    with pytest.raises(UsageLimitExceededError) as raised:
        await run(granular.writing, "moon", usage_limits=UsageLimits(total_tokens_limit=15))

    assert raised.value.result.step_history[0].metadata_["exit_reason"] == "quota_limit_exceeded"


async def test_a_worker_that_dies_over_a_turn_costs_that_turn_alone(make_own_fleet: Callable[..., Fleet]) -> None:
    made = make_own_fleet("granular-kill", FLUJO_PIPELINES="tests.integration.granular")
    made.manager()
    worker = made.worker()
    await made.ready(1)

    async with AsyncFlujoClient(settings=made.settings()) as client:
        await made.published(client, "slow_turns")
        run = await client.submit("slow_turns", "go")
        await made.started(run.run_id, "0.1.0")
        worker.kill()
        made.open_gate("turn")
        made.worker()
        result = await run.result(timeout_s=60)

    assert result.output == "go 2"
    assert [entry["path"] for entry in made.entries(kind="started")] == ["0.0.0", "0.1.0", "0.1.0", "0.2.0"]
