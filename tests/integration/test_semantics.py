"""What existing code asserts on, sentence by sentence: each in process and on a worker, with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Flujo, Pipeline, PipelineResult, RunStatus, StepResult
from flujo_client import HookPayload as AnyPayload
from tests.integration import semantics_pipelines as made
from tests.integration.conftest import Fleet, Open, at_work, opener


@pytest.fixture(scope="module")
def worker_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker."""
    return at_work(make_fleet("semantics", FLUJO_PIPELINES="tests.integration.semantics_pipelines"))


@pytest.fixture(params=["in process", "on a fleet"])
def flujo(request: pytest.FixtureRequest) -> Open:
    """Makes a runner of a pipeline, where the test asks."""
    return opener(request, "worker_fleet")


async def run(runner: Flujo, value: Any = 1) -> PipelineResult:
    async with runner:
        return await runner.run_async(value)


async def test_hooks_and_results_have_a_context_where_no_step_asks_for_one(flujo: Open) -> None:
    heard: list[tuple[str, str, str]] = []

    async def hear(payload: AnyPayload) -> None:
        assert payload.context is not None
        heard.append((payload.event_name, payload.context.run_id, payload.context.initial_prompt))

    result = await run(flujo(made.plain, hooks=[hear]), 7)

    events = ["pre_run", "pre_step", "post_step", "pre_step", "post_step", "post_run"]
    assert heard == [(event, result.run_id, "7") for event in events]
    context = result.final_pipeline_context
    assert (context.run_id, context.initial_prompt, context.step_outputs) == (
        result.run_id,
        "7",
        {"inc": 8, "double": 16},
    )


async def test_a_submitted_run_has_that_context_too(worker_fleet: Fleet) -> None:
    async with AsyncFlujoClient(settings=worker_fleet.settings()) as client:
        await worker_fleet.published(client, "plain")
        submitted = await client.submit("plain", 7)
        result = await submitted.result(timeout_s=60)

    assert result.final_pipeline_context.initial_prompt == "7"
    assert result.final_pipeline_context.run_id == submitted.run_id


async def test_a_parallel_step_that_failed_shows_what_its_branches_gave(flujo: Open) -> None:
    part = (await run(flujo(made.half_failed))).step_history[-1]

    assert not part.success
    assert list(part.output) == ["bad", "good"]
    assert part.output["good"] == 2
    bad = part.output["bad"]
    assert isinstance(bad, StepResult)
    assert (bad.name, bad.success, [inner.name for inner in bad.step_history]) == ("both_bad", False, ["fail"])


async def test_it_shows_them_inside_of_other_steps_as_well(flujo: Open) -> None:
    outer = (await run(flujo(made.nested_failure))).step_history[-1]

    assert outer.step_history[0].output["good"] == 2


@pytest.mark.parametrize("reason", list(made.LOOPS))
async def test_a_loop_says_why_it_ended(flujo: Open, reason: str) -> None:
    part = (await run(flujo(made.LOOPS[reason]))).step_history[-1]

    assert part.metadata_["exit_reason"] == reason, part.feedback
    assert part.success is (reason == "condition")
    if "mapper" in reason or reason == "exit_condition_error":
        assert part.feedback == "Agent execution failed with KeyError: 'broken'"


async def test_an_end_state_needs_no_pipeline(flujo: Open) -> None:
    result = await run(flujo(made.ending))

    assert result.success
    assert result.output == 6
    assert result.step_history[1].output == 3


async def test_each_answer_stands_in_the_command_log_with_what_it_answers(flujo: Open) -> None:
    async with flujo(made.asking, context_model=made.Notes) as runner:
        paused = await runner.run_async(1)
        paused = await runner.resume_async(paused, "yes")
        result = await runner.resume_async(paused, "no")

    assert result.status is RunStatus.COMPLETED
    log = result.final_pipeline_context.command_log
    assert [(entry.turn, entry.generated_command, entry.execution_result) for entry in log] == [
        (1, {"question": "go on?"}, "yes"),
        (2, "yes", "no"),
    ]


@pytest.mark.parametrize(
    ("pipeline", "output"), [(made.widening, "float 1.5"), (made.modelling, [True, 1, 2])], ids=["number", "model"]
)
async def test_whole_numbers_and_dicts_become_what_the_next_step_declares(
    flujo: Open, pipeline: Pipeline, output: Any
) -> None:
    assert (await run(flujo(pipeline))).output == output
