"""Sentences of docs/parity.md about loops, choices, maps, machines, caches and background steps, each in process and on one fleet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import BackgroundLaunched, PipelineResult, StepResult, UsageLimitExceededError, UsageLimits
from tests.integration import parity_flow as made
from tests.integration.conftest import Open, run
from tests.integration.parity_flow import Tally


async def tally(flujo: Open, pipeline: Any, value: Any = 1, **options: Any) -> PipelineResult:
    return await run(flujo(pipeline, context_model=Tally, **options), value)


async def first(flujo: Open, pipeline: Any, value: Any = 1, **options: Any) -> StepResult:
    return (await tally(flujo, pipeline, value, **options)).step_history[0]


class TestLoops:
    async def test_one_result_has_the_iterations_and_their_steps(self, flujo: Open) -> None:
        part = await first(flujo, made.until_three, -1)

        assert (part.name, part.output, part.attempts) == ("again", 3, 2)
        assert part.metadata_ == {"iterations": 2, "exit_reason": "condition"}
        assert [inner.name for inner in part.step_history] == ["count", "inc", "count", "inc"]

    async def test_the_condition_gets_the_context_as_the_iteration_left_it(self, flujo: Open) -> None:
        result = await tally(flujo, made.asks_context)

        assert (result.output, result.final_pipeline_context.n) == (3, 2)

    async def test_mappers_make_the_first_input_the_next_ones_and_the_output(self, flujo: Open) -> None:
        """10 * 1, counted: 11; 100 * 11 + one iteration done, counted: 1102."""
        assert (await tally(flujo, made.mapped)).output == [1102, 2]

    async def test_one_at_its_limit_has_failed_and_what_follows_runs(self, flujo: Open) -> None:
        result = await tally(flujo, made.at_its_limit)

        part = result.step_history[0]
        assert (result.success, result.output) == (True, [3, 2])
        assert (part.success, part.feedback, part.metadata_["exit_reason"]) == (False, "reached max_loops", "max_loops")
        assert (await tally(flujo, made.last_at_its_limit)).success is False

    @pytest.mark.parametrize(
        ("pipeline", "reason", "feedback", "steps"),
        [
            ("body_fails", "body_step_error", "Loop body failed: Agent execution failed with ValueError: no", 1),
            ("cannot_decide", "exit_condition_error", "Agent execution failed with LookupError: nobody knows", 1),
            ("cannot_begin", "initial_input_mapper_error", "Agent execution failed with LookupError: no input", 1),
        ],
    )
    async def test_why_it_ended_is_told(
        self, flujo: Open, pipeline: str, reason: str, feedback: str, steps: int
    ) -> None:
        result = await tally(flujo, getattr(made, pipeline))

        part = result.step_history[0]
        assert (result.success, len(result.step_history)) == (False, steps)
        assert (part.metadata_["exit_reason"], part.feedback) == (reason, feedback)
        assert result.final_pipeline_context.n == (1 if pipeline == "cannot_decide" else 0)

    async def test_one_that_the_budget_stops_is_the_last_in_the_history(self, flujo: Open) -> None:
        with pytest.raises(UsageLimitExceededError, match="Token limit of 10 exceeded") as raised:
            await tally(flujo, made.spends_too_much, usage_limits=UsageLimits(total_tokens_limit=10))

        (part,) = raised.value.result.step_history
        assert (part.name, part.metadata_["exit_reason"]) == ("again", "quota_limit_exceeded")


class TestChoices:
    @pytest.mark.parametrize("pipeline", ["by_truth", "by_word"])
    @pytest.mark.parametrize(("value", "output"), [(9, [10, 1]), (2, [3, 0])])
    async def test_truth_and_its_words_are_one_key(
        self, flujo: Open, pipeline: str, value: int, output: list[int]
    ) -> None:
        assert (await tally(flujo, getattr(made, pipeline), value)).output == output

    @pytest.mark.parametrize(("value", "output"), [(1, [11, "one", 1]), (4, [41, "other", 0])])
    async def test_mappers_make_the_branchs_input_and_the_output_and_any_other_key_takes_the_default(
        self, flujo: Open, value: int, output: list[Any]
    ) -> None:
        result = await tally(flujo, made.by_default, value)

        assert result.output == output
        assert result.step_history[0].metadata_ == {"executed_branch_key": output[1]}

    async def test_a_branch_that_fails_leaves_no_trace_in_the_context(self, flujo: Open) -> None:
        result = await tally(flujo, made.by_default, 2)

        feedback = "Failure in branch 'fails': Agent execution failed with ValueError: no"
        assert (result.step_history[0].feedback, result.final_pipeline_context.n) == (feedback, 0)

    async def test_a_key_without_a_branch_fails(self, flujo: Open) -> None:
        feedback = (await first(flujo, made.lost, 4)).feedback

        assert feedback == "No branch found for key 'other' and no default branch provided"


class TestMaps:
    async def test_items_are_those_of_a_field_and_outputs_are_in_their_order(self, flujo: Open) -> None:
        result = await tally(flujo, made.each_of_a_field, initial_context_data={"items": [5, 1, 3]})

        assert (result.output, result.final_pipeline_context.n) == ([6, 2, 4], 3)

    async def test_a_field_that_is_not_there_fails_it(self, flujo: Open) -> None:
        feedback = (await first(flujo, made.each_of_nothing)).feedback or ""

        assert feedback.endswith("ValueError: The context has no field 'nowhere' to map over")

    @pytest.mark.parametrize("items", ["text", 7])
    async def test_what_is_no_list_fails_it(self, flujo: Open, items: Any) -> None:
        feedback = (await first(flujo, made.each_of_a_field, initial_context_data={"items": items})).feedback or ""

        assert "TypeError" in feedback

    async def test_an_item_that_fails_is_named_or_is_none(self, flujo: Open) -> None:
        data = {"initial_context_data": {"items": [1, 2, 3]}}
        strict, lenient = await first(flujo, made.strict_map, **data), await first(flujo, made.lenient_map, **data)

        assert (strict.success, strict.output, lenient.success, lenient.output) == (False, None, True, [1, None, 3])
        assert strict.metadata_["failed_items"] == lenient.metadata_["failed_items"] == [1]
        assert "item 1: step 'odd_only': Agent execution failed with ValueError: 2 is even" in (strict.feedback or "")


class TestMachines:
    @pytest.mark.parametrize(
        ("pipeline", "states", "told"),
        [
            ("by_output", ["start", "end"], ["start", "end"]),
            ("not_stale", ["start", "end"], ["end"]),
            ("by_context", ["start", "end"], ["told", "end"]),
            ("after_a_failure", ["start", "end"], ["end"]),
        ],
    )
    async def test_it_goes_where_the_output_then_the_context_says_and_a_failure_where_it_leads(
        self, flujo: Open, pipeline: str, states: list[str], told: list[str]
    ) -> None:
        result = await tally(flujo, getattr(made, pipeline))

        part = result.step_history[0]
        assert (part.success, part.metadata_["states"]) == (True, states)
        assert result.final_pipeline_context.told == told
        assert part.output[1] == told  # that of the last state

    @pytest.mark.parametrize(("value", "second"), [(4, "five"), (1, "end")])
    async def test_the_first_transition_that_applies_wins(self, flujo: Open, value: int, second: str) -> None:
        states = (await first(flujo, made.by_transition, value)).metadata_["states"]

        assert states[:2] == ["start", second]
        assert states[2:3] == (["any"] if second == "five" else [])

    async def test_ten_hops_for_each_state_are_the_most(self, flujo: Open) -> None:
        part = await first(flujo, made.round_and_round)

        assert (part.success, len(part.step_history)) == (False, 30)
        assert part.feedback == "The state machine was to enter 'start' after 30 hops, its limit"


class TestCaches:
    async def test_a_hit_is_marked_and_changes_the_context_again(self, flujo: Open) -> None:
        async with flujo(made.own_cache, context_model=Tally) as runner:
            one = await runner.run_async(7, run_id="caching")
            two = await runner.run_async(7)
            other = await runner.run_async(8)

        assert [part.step_history[0].metadata_["cache_hit"] for part in (one, two, other)] == [False, True, False]
        assert (two.output, two.final_pipeline_context.n) == (one.output, 1)
        assert other.output != one.output

    async def test_another_context_is_another_key(self, flujo: Open) -> None:
        async with flujo(made.own_cache, context_model=Tally) as runner:
            outputs = [
                (await runner.run_async(20, initial_context_data={"items": [number]})).output for number in (1, 2)
            ]

        assert outputs[0] != outputs[1]

    async def test_only_successes_are_kept(self, flujo: Open) -> None:
        async with flujo(made.shared_cache, context_model=Tally) as runner:
            feedback = [(await runner.run_async(-1)).step_history[0].feedback for _ in range(2)]

        assert feedback[0] != feedback[1]

    async def test_of_those_that_want_the_same_at_once_one_makes_it(self, flujo: Open) -> None:
        async with flujo(made.shared_cache, context_model=Tally) as runner:
            results = await asyncio.gather(*(runner.run_result_async(30) for _ in range(4)))

        assert len({result.output for result in results}) == 1

    async def test_a_backend_that_does_not_answer_costs_the_hit_alone(self, flujo: Open) -> None:
        async with flujo(made.broken_cache, context_model=Tally) as runner:
            results = [await runner.run_async(1) for _ in range(2)]

        assert all(result.success for result in results)
        assert results[0].output != results[1].output


class TestBackgroundSteps:
    async def test_what_follows_gets_its_input_and_its_context_is_a_copy(self, flujo: Open) -> None:
        result = await tally(flujo, made.launching, 2)

        part = result.step_history[0]
        assert (result.output, result.final_pipeline_context.n) == ([2, 0], 0)
        assert part.feedback == f"Launched in background (task_id={part.metadata_['background_task_id']})"
        assert part.metadata_["background_task_id"].startswith("bg_")
        assert part.step_history[0].output == 20  # the run has waited for it

    async def test_its_launch_is_the_first_that_is_told(self, flujo: Open) -> None:
        async with flujo(made.launching, context_model=Tally) as runner:
            items = [item async for item in runner.run_async(2)]

        launch, result = items[0], items[-1]
        assert isinstance(launch, BackgroundLaunched)
        assert isinstance(result, PipelineResult)
        assert launch.step_name == "behind"
        assert launch.task_id == result.step_history[0].metadata_["background_task_id"]

    @pytest.mark.parametrize(
        ("value", "category"),
        [
            (-1, "network"),
            (-2, "authentication"),
            (-3, "resource_exhaustion"),
            (-4, "validation"),
            (-5, "system"),
        ],
    )
    async def test_its_failure_has_a_category_and_fails_nothing(self, flujo: Open, value: int, category: str) -> None:
        result = await tally(flujo, made.launching, value)

        assert result.success
        assert result.step_history[0].metadata_["background_error_category"] == category
        assert "Agent execution failed with " in result.step_history[0].metadata_["background_error"]
