"""Sentences of docs/parity.md, each in process and on one fleet: the same pipelines and the same answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError as PydanticValidationError

from flujo_client import (
    Chunk,
    ContextInheritanceError,
    OnLimitPayload,
    Paused,
    Pipeline,
    PipelineAbortSignal,
    PipelineContextInitializationError,
    PipelineRegistry,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreStepPayload,
    RunStatus,
    StepResult,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration import parity_pipelines as made
from tests.integration.conftest import Open, last, run


class TestSteps:
    async def test_a_fallback_that_fails_too_tells_both_errors_under_the_steps_name(self, flujo: Open) -> None:
        part = await last(flujo(made.both_fail))

        assert part.name == "primary"
        assert part.feedback is not None
        assert part.feedback.startswith("Original error: ")
        assert "Fallback error: " in part.feedback

    @pytest.mark.parametrize("value", [1, None, "text", {"a": [1]}])
    async def test_without_annotations_anything_flows(self, flujo: Open, value: Any) -> None:
        assert (await run(flujo(made.flows), value)).output == value

    async def test_the_same_input_again_runs_again(self, flujo: Open) -> None:
        async with flujo(made.uncached) as runner:
            results = [await runner.run_async(1) for _ in range(2)]

        assert results[0].output != results[1].output


class TestBranches:
    async def test_only_the_included_fields_are_copied(self, flujo: Open) -> None:
        async with flujo(made.included) as runner:
            result = await runner.run_async(1, initial_context_data={"count": 5, "word": "mine"})

        assert result.output == {"a": ["first", 5], "b": ["first", 5]}

    async def test_a_failed_branch_fails_the_step_once_its_siblings_have_ended(self, flujo: Open) -> None:
        part = await last(flujo(made.siblings))

        assert part.feedback == (
            "branch 'bad' failed: Pipeline failed - step 'fail' (after 1 attempts): "
            "Agent execution failed with ValueError: no"
        )
        assert [inner.success for inner in part.step_history] == [False, True]
        assert part.step_history[1].output == 3
        assert part.metadata_["executed_branches"] == ["bad", "good"]

    async def test_an_ignored_branch_stands_in_the_output_as_its_result(self, flujo: Open) -> None:
        result = await run(flujo(made.ignoring))

        assert result.success
        assert result.output["good"] == 2
        bad = result.output["bad"]
        assert isinstance(bad, StepResult)
        assert (bad.name, bad.success, [part.name for part in bad.step_history]) == ("both_bad", False, ["fail"])
        assert result.step_history[0].feedback == "Parallel step completed with 1 branch failures (ignored)"

    @pytest.mark.parametrize(
        ("called", "steps", "feedback"),
        [
            ("step", 2, "Agent execution failed with ValueError: no"),
            ("typed", 2, "Agent execution failed with ValueError: no"),
            ("loop", 1, "reached max_loops"),
        ],
    )
    async def test_what_follows_gets_the_result_of_an_ignored_branch_whatever_failed_it(
        self, flujo: Open, called: str, steps: int, feedback: str
    ) -> None:
        result = await run(flujo(made.ignored[called]))

        assert result.output == [["both_bad", False, steps, feedback], 2]

    async def test_several_failures_are_counted_and_told(self, flujo: Open) -> None:
        feedback = (await last(flujo(made.two_fail))).feedback or ""

        assert feedback.startswith("Parallel step failed: 2 of 3 branches failed (1 succeeded). Failures: ")
        assert "branch 'x'" in feedback
        assert "branch 'y'" in feedback

    async def test_no_branches_fail_the_step(self, flujo: Open) -> None:
        assert (await last(flujo(made.no_branches))).success is False

    async def test_what_successful_branches_added_adds_up_and_the_rest_is_dropped(self, flujo: Open) -> None:
        assert (await run(flujo(made.merging))).final_pipeline_context.count == 2

    async def test_a_conflict_names_the_key_both_branches_and_both_values(self, flujo: Open) -> None:
        feedback = (await last(flujo(made.conflict))).feedback or ""

        assert "Merge conflict for key 'word'. Branches 'a' and 'b' set different values." in feedback
        assert "'a': 'a', 'b': 'b'" in feedback

    async def test_a_field_mapping_cures_a_conflict(self, flujo: Open) -> None:
        context = (await run(flujo(made.mapped_fields))).final_pipeline_context

        assert (context.word, context.count) == ("b", 2)

    async def test_no_more_branches_than_allowed_run_at_once(self, flujo: Open) -> None:
        spans = (await run(flujo(made.narrow))).output.values()

        assert all(sum(other[0] < span[1] and span[0] < other[1] for other in spans) <= 3 for span in spans)
        assert max(sum(start <= moment < end for start, end in spans) for moment, _ in spans) <= 2


class TestLoopsAndChoices:
    async def test_a_failing_body_fails_the_loop_at_once(self, flujo: Open) -> None:
        part = await last(flujo(made.failing_loop))

        assert (part.attempts, part.metadata_["exit_reason"]) == (1, "body_step_error")
        assert (part.feedback or "").startswith("Loop body failed: ")

    @pytest.mark.parametrize(("value", "key", "seen"), [(9, "big", ["first", 1]), (1, "small", ["b", 1])])
    async def test_the_branch_that_ran_is_told_and_its_context_stays(
        self, flujo: Open, value: int, key: str, seen: list[Any]
    ) -> None:
        result = await run(flujo(made.choosing), value)

        assert result.step_history[0].metadata_["executed_branch_key"] == key
        assert result.output == seen

    @pytest.mark.parametrize("items", ["text", 7, None])
    async def test_what_cannot_be_iterated_is_refused(self, flujo: Open, items: Any) -> None:
        result = await run(flujo(made.no_items), initial_context_data={"items": items})

        assert result.step_history[0].success is False

    async def test_nothing_to_map_over_gives_nothing(self, flujo: Open) -> None:
        assert (await run(flujo(made.no_items), initial_context_data={"items": []})).output == []

    async def test_one_hop_too_many_is_a_failure(self, flujo: Open) -> None:
        result = await run(flujo(made.hopping))

        assert result.status is RunStatus.FAILED
        assert result.step_history[0].success is False


class TestRunners:
    async def test_every_form_of_a_run_gives_the_same_result(self, flujo: Open) -> None:
        async with flujo(made.keeping) as runner:
            plain = await runner.run_result_async(1)
            with_events = [item async for item in runner.run_with_events(1)]
            streamed = [item async for item in runner.stream_async(1)]

        assert not any(isinstance(item, Chunk) for item in with_events)
        last_item = with_events[-1]
        assert isinstance(last_item, PipelineResult)
        assert {plain.output[1], last_item.output[1], streamed[-1].output[1]} == {1}

    async def test_contexts_keep_what_they_do_not_declare(self, flujo: Open) -> None:
        assert (await run(flujo(made.keeping), 7)).final_pipeline_context.unheard_of == {"of": 7}

    async def test_tracing_can_be_switched_off(self, flujo: Open) -> None:
        async with flujo(made.keeping) as runner:
            traced = await runner.run_async(1)
            runner.disable_tracing()
            untraced = await runner.run_async(1)

        assert traced.trace_tree is not None
        assert untraced.trace_tree is None
        assert (await run(flujo(made.keeping, enable_tracing=False))).trace_tree is None

    async def test_fields_that_the_context_around_lacks_raise(self, flujo: Open) -> None:
        with pytest.raises(ContextInheritanceError, match="needed"):
            await run(flujo(made.needy))

    async def test_initial_data_that_does_not_fit_raises(self, flujo: Open) -> None:
        with pytest.raises(PipelineContextInitializationError):
            await run(flujo(made.keeping), initial_context_data={"count": "many"})

    async def test_a_pipeline_comes_from_a_registry(self, flujo: Open) -> None:
        registry = PipelineRegistry()
        registry.register(made.keeping, "keeping", "1.0")

        assert (await run(flujo(None, registry=registry, pipeline_name="keeping"), 1)).success

    async def test_a_run_that_has_ended_is_replayed(self, flujo: Open) -> None:
        async with flujo(made.uncached) as runner:
            first = await runner.run_async(1, run_id="replayed")
            again = await runner.replay_from_trace("replayed")

        assert again.output == first.output == "replayed"

    async def test_runs_at_once_have_trees_of_their_own(self, flujo: Open) -> None:
        async with flujo(made.uncached) as runner:
            results = await asyncio.gather(*(runner.run_result_async(number) for number in range(5)))

        trees = [result.trace_tree for result in results]
        assert [tree.attributes["flujo.run_id"] for tree in trees] == [result.output for result in results]
        assert all(len(tree.children) == 1 for tree in trees)

    async def test_retries_and_fallbacks_are_events_of_the_trace(self, flujo: Open) -> None:
        tree = (await run(flujo(made.retried))).trace_tree

        names = {event.name for child in tree.children for event in child.events}
        assert {"flujo.retry", "flujo.fallback.triggered"} <= names


class TestBudgets:
    async def test_what_cannot_be_reserved_is_not_run_and_hooks_hear_the_limit_alone(self, flujo: Open) -> None:
        heard: list[Any] = []

        async def hook(payload: Any) -> None:
            heard.append(payload)

        with pytest.raises(UsageLimitExceededError, match="Token limit of 20 exceeded") as raised:
            await run(flujo(made.spending, usage_limits=UsageLimits(total_tokens_limit=20), hooks=[hook]))

        denied = raised.value.result.step_history[-1]
        assert (denied.success, denied.attempts, denied.token_counts) == (False, 0, 50)
        assert denied.metadata_["exit_reason"] == "quota_reservation_denied"
        assert any(isinstance(payload, OnLimitPayload) for payload in heard)
        assert "on_step_failure" not in {payload.event_name for payload in heard}

    async def test_a_step_has_limits_of_its_own(self, flujo: Open) -> None:
        with pytest.raises(UsageLimitExceededError, match="Token limit of 10 exceeded"):
            await run(flujo(made.own_limit))

    async def test_a_failed_attempts_reservation_goes_back(self, flujo: Open) -> None:
        result = await run(flujo(made.refunded, usage_limits=UsageLimits(total_tokens_limit=8)))

        assert (result.success, result.usage) == (True, {"tokens": 6})


class TestHooks:
    async def test_order_filters_and_nested_places(self, flujo: Open) -> None:
        told: list[str] = []
        typed: list[str] = []

        def named(name: str) -> Any:
            async def hook(payload: Any) -> None:
                told.append(f"{name} {payload.event_name} {getattr(payload, 'path', '')}".strip())

            return hook

        async def starts_and_ends(payload: PreStepPayload | PostStepPayload) -> None:
            typed.append(f"{payload.event_name} {payload.depth}")

        async def faulty(payload: Any) -> None:
            raise ValueError("a faulty hook breaks nothing")

        pipeline = Pipeline(made.heard.steps, name="heard", hooks=[named("pipeline")], on_finish=[named("finish")])
        runner = flujo(pipeline, hooks=[faulty, named("runner"), starts_and_ends], local_tracer=named("tracer"))
        result = await run(runner)

        assert result.status is RunStatus.FAILED
        assert [word for word in told if "pre_run" in word] == ["pipeline pre_run", "runner pre_run", "tracer pre_run"]
        ends = [word.split()[0] for word in told if "post_run" in word]
        assert ends == ["pipeline", "finish", "runner"]
        mine = [word.removeprefix("runner ") for word in told if word.startswith("runner")]
        assert mine.count("pre_step 1.0.1") == mine.count("on_step_failure 1.0.1") == 1
        assert mine.index("on_step_failure 1.0.1") < mine.index("on_step_failure 1")
        assert {word.split()[0] for word in typed} == {"pre_step", "post_step"}
        assert len({word.split()[1] for word in typed}) == 2

    @pytest.mark.parametrize(
        ("event", "pipeline", "committed"),
        [
            ("pre_run", made.flows, 0),
            ("pre_step", made.flows, 0),
            ("post_step", made.flows, 1),
            ("on_step_failure", made.refused, 2),
            ("on_pause_requested", made.doubting, 1),
            ("on_limit", made.spending, 2),
            ("on_limit_warning", made.warned, 1),
        ],
    )
    async def test_an_abort_at_any_event_before_the_end_ends_the_run_as_aborted(
        self, flujo: Open, event: str, pipeline: Pipeline, committed: int
    ) -> None:
        heard: list[str] = []

        async def abort(payload: Any) -> None:
            heard.append(payload.event_name)
            if payload.event_name == event:
                raise PipelineAbortSignal("enough")

        result = await run(flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=20), hooks=[abort]))

        assert (result.status, result.success, (result.error or {})["message"]) == (RunStatus.ABORTED, False, "enough")
        assert result.final_pipeline_context.status == "aborted"
        assert len(result.step_history) == committed
        assert set(heard[heard.index(event) + 1 :]) == {"post_run"}  # hooks are called at least once

    async def test_an_abort_in_post_run_is_ignored(self, flujo: Open) -> None:
        async def abort(payload: PostRunPayload) -> None:
            raise PipelineAbortSignal("too late")

        assert (await run(flujo(made.keeping, hooks=[abort]))).status is RunStatus.COMPLETED


class TestPauses:
    async def test_a_pause_in_composites_keeps_its_place_and_checks_its_answer(self, flujo: Open) -> None:
        asked: list[str] = []

        async def hook(payload: Any) -> None:
            if payload.event_name == "on_pause_requested":
                asked.append(payload.step_name)

        async with flujo(made.asking, hooks=[hook]) as runner:
            first = await runner.run_async(1)
            with pytest.raises(PydanticValidationError):
                await runner.resume_async(first, "no number")
            second = await runner.resume_async(first, 5)
            result = await runner.resume_async(second, "yes")

        assert (first.success, first.status) == (False, RunStatus.PAUSED)
        assert (second.success, second.status) == (True, RunStatus.PAUSED)
        assert second.step_history[0].output == 5
        assert (result.status, result.output) == (RunStatus.COMPLETED, "yes")
        assert asked == ["ask", "sure"]

    async def test_outcomes_end_with_the_pause(self, flujo: Open) -> None:
        outcomes = [outcome async for outcome in flujo(made.asking).run_outcomes_async(1)]

        assert isinstance(outcomes[-1], Paused)
        assert outcomes[-1].message == "number?"
