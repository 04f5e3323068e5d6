"""Loops and conditions, in process and on a fleet: the same pipelines, the same results."""

from __future__ import annotations

import pytest

from flujo_client import BackgroundLaunched, Pipeline, PipelineResult, RunStatus
from tests.integration.conftest import Modes
from tests.integration.control_flow import (
    Draft,
    Notes,
    Order,
    Tally,
    apart,
    backed,
    doubtful,
    kept,
    launching,
    layered,
    lenient,
    lost,
    mapped,
    merged,
    named,
    nested,
    never,
    ordering,
    picky,
    polished,
    reduced,
    refined,
    routed,
)


@pytest.fixture(params=["in process", "on a fleet"])
def modes(request: pytest.FixtureRequest) -> Modes:
    return Modes(None if request.param == "in process" else request.getfixturevalue("fleet"))


async def test_a_loop_and_a_condition_with_mappers_and_context(modes: Modes) -> None:
    result = await modes.run(polished, {"text": "a"}, context_model=Notes)

    assert result.status is RunStatus.COMPLETED
    assert result.output == "[14 points in 3 rounds] True 14"
    assert (result.final_pipeline_context.rounds, result.final_pipeline_context.best) == (3, 14)
    polish, choose = result.step_history
    assert (polish.output, polish.attempts) == ({"text": "a!1!2!", "score": 14, "rounds": 3}, 3)
    assert polish.metadata_ == {"iterations": 3, "exit_reason": "condition"}
    assert [part.name for part in polish.step_history] == ["write", "judge"] * 3
    assert choose.metadata_ == {"executed_branch_key": True}


async def test_a_condition_that_raises_fails_its_loop(modes: Modes) -> None:
    result = await modes.run(doubtful, {"text": "a"})

    assert (result.status, [part.name for part in result.step_history]) == (RunStatus.FAILED, ["doubt"])
    assert result.step_history[0].metadata_ == {"iterations": 1, "exit_reason": "exit_condition_error"}
    assert "nobody knows" in (result.step_history[0].feedback or "")


async def test_a_key_without_a_branch_fails_and_names_the_key(modes: Modes) -> None:
    result = await modes.run(lost, {"text": "right"})

    assert result.status is RunStatus.FAILED
    assert "No branch found for key 'right' and no default branch provided" in (result.step_history[0].feedback or "")


async def test_a_loop_in_a_branch_runs_beside_its_sibling(modes: Modes) -> None:
    result = await modes.run(nested, 7)

    assert result.output == {"a": 10, "b": 8}


async def test_a_refinement_goes_on_until_the_critic_is_content(modes: Modes) -> None:
    result = await modes.run(refined, "a")

    assert Draft.model_validate(result.output, from_attributes=True) == Draft(text="a longer", score=8)
    assert result.step_history[1].metadata_ == {"iterations": 2, "exit_reason": "condition"}


async def test_a_refinement_at_its_limit_gives_the_last_artifact(modes: Modes) -> None:
    result = await modes.run(never, "a")

    assert Draft.model_validate(result.output, from_attributes=True) == Draft(text="longer", score=6)
    assert (result.status, result.step_history[1].feedback) == (RunStatus.COMPLETED, "reached max_loops")


async def test_a_fallback_takes_over_when_every_attempt_has_failed(modes: Modes) -> None:
    result = await modes.run(backed, 5)

    first = result.step_history[0]
    assert result.output == -4
    assert (first.name, first.output, first.attempts) == ("plan_b", -5, 3)
    assert first.metadata_["fallback_triggered"]


@pytest.mark.parametrize(
    ("number", "states", "expected"),
    [
        (7, ["check", "pay", "wait", "pay"], 700),
        (99, ["check", "pay", "reject"], 99),
        (-1, ["check", "reject"], -1),
    ],
)
async def test_a_state_machine_goes_where_transitions_and_outputs_lead(
    modes: Modes, number: int, states: list[str], expected: int
) -> None:
    result = await modes.run(ordering, {"number": number})

    assert result.step_history[0].metadata_ == {"states": states}
    assert Order.model_validate(result.output, from_attributes=True).number == expected


@pytest.mark.parametrize(("pipeline", "output", "counter"), [(layered, 404, 4), (apart, 403, 1)])
async def test_a_nested_runner_shares_its_context_or_has_one_of_its_own(
    modes: Modes, pipeline: Pipeline, output: int, counter: int
) -> None:
    result = await modes.run(pipeline, 0, context_model=Tally)

    assert (result.output, result.final_pipeline_context.counter) == (output, counter)
    assert [part.name for part in result.step_history[1].step_history] == ["tally", "inherited"]


async def test_a_reducer_makes_the_output_of_what_the_branches_gave(modes: Modes) -> None:
    result = await modes.run(reduced, 0, context_model=Tally)

    assert (result.output, result.final_pipeline_context.counter) == (44, 4)
    assert (await modes.run(named, {"text": "x"})).output == ["name_a: x", "name_b: x"]


async def test_a_function_merges_the_contexts_of_branches(modes: Modes) -> None:
    result = await modes.run(merged, 0, context_model=Tally)

    assert (result.output, result.final_pipeline_context.counter) == ({"a": 2, "b": 2}, 4)


async def test_a_map_over_more_items_than_one_step_gathers(modes: Modes) -> None:
    numbers = list(range(600))

    result = await modes.run(mapped, 0, context_model=Tally, initial_context_data={"numbers": numbers})

    assert (result.output, result.final_pipeline_context.counter) == (2 * sum(numbers), 600)


async def test_a_failed_item_is_named_or_is_none_in_the_output(modes: Modes) -> None:
    failed, passed = await modes.run(picky, [1, 2, 3]), await modes.run(lenient, [1, 2, 3])

    assert "1 of 3 items failed: item 1: step 'odd_only'" in (failed.step_history[0].feedback or "")
    assert (passed.status, passed.output) == (RunStatus.COMPLETED, [1, None, 3])


async def test_the_branches_that_a_router_names_run_on_its_input(modes: Modes) -> None:
    result = await modes.run(routed, 5, context_model=Tally)

    assert (result.output, result.final_pipeline_context.counter) == ({"c": 10}, 2)
    assert result.step_history[0].metadata_["executed_branches"] == ["c", "a"]


@pytest.mark.parametrize("number", [2, -2])
async def test_a_background_step_is_told_of_and_ends_before_its_run(modes: Modes, number: int) -> None:
    items = [item async for item in modes.iterate(launching, number)]

    launched, result = items
    assert isinstance(launched, BackgroundLaunched)
    assert isinstance(result, PipelineResult)
    first = result.step_history[0]
    assert (result.status, result.output) == (RunStatus.COMPLETED, number + 1)
    assert (first.metadata_["background_task_id"], first.output) == (launched.task_id, number)
    assert first.step_history[0].output == (2000 if number > 0 else None)
    assert ("background_error" in first.metadata_) == (number < 0)


async def test_a_cached_step_is_paid_for_once_by_all_workers(modes: Modes) -> None:
    if modes.queued:
        results = [await modes.run(kept, {"text": "x", "score": 4}) for _ in range(3)]
        assert [result.total_tokens for result in results] == [10, 0, 0]
        assert [result.step_history[0].metadata_["cache_hit"] for result in results] == [False, True, True]
        assert all(Draft.model_validate(result.output, from_attributes=True).score == 10 for result in results)
    else:
        assert (await modes.run(kept, {"text": "x", "score": 4})).total_tokens == 10
