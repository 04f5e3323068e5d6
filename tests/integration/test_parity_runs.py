"""Sentences of docs/parity.md about attempts, contexts, nested runners, forms of runs and streams, each in process and on one fleet."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from flujo_client import (
    Chunk,
    ConfigurationError,
    Failure,
    InfiniteRedirectError,
    MissingAgentError,
    Pipeline,
    PipelineResult,
    PricingNotConfiguredError,
    RunStatus,
    Step,
    Success,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration import parity_runs as made
from tests.integration.conftest import Open, run
from tests.integration.parity_pipelines import always
from tests.integration.parity_runs import Diary


async def diary(flujo: Open, pipeline: Any, value: Any = 1, **options: Any) -> PipelineResult:
    return await run(flujo(pipeline, context_model=Diary), value, **options)


class TestAttempts:
    async def test_the_backoff_between_them_is_waited_for(self, flujo: Open) -> None:
        began = (await diary(flujo, made.backing_off)).output

        first, second = (later - earlier for earlier, later in pairwise(began))
        assert (first >= 0.2, second >= 0.4) == (True, True)

    async def test_what_is_never_retried_is_tried_once(self, flujo: Open) -> None:
        part = (await diary(flujo, made.never_retried)).step_history[0]

        assert (part.success, part.attempts) == (False, 1)

    async def test_a_timeout_fails_an_attempt_and_is_tried_again(self, flujo: Open) -> None:
        part = (await diary(flujo, made.timing_out)).step_history[0]

        assert (part.success, part.attempts) == (False, 2)
        assert (part.feedback or "").startswith("Agent execution failed with TimeoutError: ")

    async def test_a_fallbacks_result_stands_for_the_steps_with_what_both_used(self, flujo: Open) -> None:
        result = await diary(flujo, made.falling_back)

        part = result.step_history[0]
        assert (part.name, part.success, part.output, part.attempts) == ("other", True, -1, 3)
        assert (part.token_counts, result.total_tokens, result.output) == (10, 10, 0)
        assert part.metadata_ == {
            "fallback_triggered": True,
            "original_error": "Agent execution failed with ValueError: no",
            "preserve_fallback_diagnostics": False,
        }

    async def test_a_fallback_is_tried_once(self, flujo: Open) -> None:
        async with flujo(made.falling_back_once) as runner, flujo(made.counting_fallbacks) as counter:
            result = await runner.run_async(1)
            tried = (await counter.run_async(result.run_id)).output

        assert (tried, result.step_history[0].attempts) == (1, 3)


class TestContexts:
    async def test_keys_that_the_model_does_not_know_are_kept_also_where_fields_are_validated(
        self, flujo: Open
    ) -> None:
        for pipeline in (made.unknown_fields, made.checked_fields):
            assert (await diary(flujo, pipeline)).final_pipeline_context.unheard_of == 1

    async def test_a_nested_results_context_updates_the_one_around_it(self, flujo: Open) -> None:
        context = (await diary(flujo, made.from_a_result, 7)).final_pipeline_context

        assert (context.n, context.word) == (7, "of a run")
        assert context.run_id != ""

    async def test_a_run_adds_to_the_initial_data_of_its_runner_and_changes_neither(self, flujo: Open) -> None:
        data, more = {"word": "of the runner", "times": [1.0]}, {"n": 4}
        async with flujo(made.reading, context_model=Diary, initial_context_data=data) as runner:
            result = await runner.run_async(1, initial_context_data=more)
            result.final_pipeline_context.times.append(2.0)
            again = await runner.run_async(1)

        assert (result.output, again.output) == ([4, "of the runner"], [0, "of the runner"])
        assert (data["times"], again.final_pipeline_context.times, more) == ([1.0], [1.0], {"n": 4})

    async def test_without_a_model_it_has_the_input_as_its_prompt_and_any_keys(self, flujo: Open) -> None:
        async with flujo(made.reading_bare, context_model=None) as runner:
            result = await runner.run_async(5, initial_context_data={"extra": [1]})

        prompt, extra, run_id = result.output
        assert (prompt, extra["extra"], run_id) == ("5", [1], result.run_id)
        assert run_id.startswith("run_")
        int(run_id.removeprefix("run_"), 16)

    async def test_a_nested_runner_starts_with_a_copy_and_gives_back_what_it_changed(self, flujo: Open) -> None:
        result = await diary(flujo, made.nested)

        assert result.output == [[2, "written"], True, 2, ["write", "read"]]
        assert result.final_pipeline_context.n == 2
        assert result.final_pipeline_context.run_id == result.run_id

    async def test_a_nested_runner_may_have_a_context_of_its_own(self, flujo: Open) -> None:
        result = await diary(flujo, made.nested_apart)

        assert result.output[0] == [1, "written"]
        assert result.final_pipeline_context.n == 1


class TestForms:
    async def test_outcomes_end_with_success_or_failure(self, flujo: Open) -> None:
        good = [item async for item in flujo(made.plain).run_outcomes_async(1)]
        bad = [item async for item in flujo(made.failing).run_outcomes(1)]
        streamed = [item async for item in flujo(made.speaking_twice).run_stream("ab")]

        assert isinstance(good[-1], Success)
        assert good[-1].step_result.output == 3
        assert isinstance(bad[-1], Failure)
        assert "ValueError: no" in (bad[-1].feedback or "")
        assert isinstance(streamed[-1], Success)
        assert all(isinstance(item, Chunk) for item in streamed[:-1])

    async def test_iterating_gives_outcomes_and_then_the_result(self, flujo: Open) -> None:
        async with flujo(made.speaking_twice) as runner:
            items = [item async for item in runner.run_async("ab")]

        assert all(isinstance(item, Chunk) for item in items[:-1])
        assert isinstance(items[-1], PipelineResult)

    async def test_a_failed_step_ends_the_run_and_raises_nothing(self, flujo: Open) -> None:
        result = await diary(flujo, made.failing)

        assert (result.success, result.status) == (False, RunStatus.FAILED)
        assert [part.success for part in result.step_history] == [True, False]

    async def test_what_is_short_of_both_names_the_cost_in_every_form_of_a_run(self, flujo: Open) -> None:
        limits = UsageLimits(total_cost_usd_limit=0.25, total_tokens_limit=2)
        async with flujo(made.short_of_both, usage_limits=limits) as runner:
            for form in (runner.run_outcomes_async, runner.stream_async, runner.run_with_events, runner.run_async):
                with pytest.raises(UsageLimitExceededError, match=r"Cost limit of \$0\.25 exceeded"):
                    _ = [item async for item in form(1)]
            with pytest.raises(UsageLimitExceededError) as raised:
                await runner.run_result_async(1)

        (denied,) = raised.value.result.step_history
        assert (denied.attempts, denied.cost_usd, denied.token_counts) == (0, 0.5, 5)


class TestErrors:
    async def test_run_inside_a_running_loop_is_refused_with_advice(self, flujo: Open) -> None:
        with pytest.raises(TypeError, match="run_async"):
            flujo(made.plain).run(1)

    async def test_a_step_without_an_agent_raises_out_of_the_run(self, flujo: Open) -> None:
        with pytest.raises(MissingAgentError, match="'nothing' has no agent"):
            await run(flujo(Pipeline([Step(name="nothing")], name="without_agent")))

    async def test_an_empty_body_is_refused_before_anything_runs(self, flujo: Open) -> None:
        empty = Pipeline([made.write, Step.loop_until("round", Pipeline(), always)], name="empty_body")

        with pytest.raises(ConfigurationError, match="empty_body/round/body: Pipeline has no steps"):
            await run(flujo(empty, context_model=Diary))

    async def test_what_steers_a_run_out_of_a_body_ends_it(self, flujo: Open) -> None:
        with pytest.raises(InfiniteRedirectError):
            await run(flujo(made.steered))

    async def test_a_model_without_a_price_is_an_error_where_prices_are_strict(
        self, flujo: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The fleet is strict as well."""
        monkeypatch.setenv("FLUJO_STRICT_PRICING", "1")

        with pytest.raises(PricingNotConfiguredError, match="knows-it"):
            await run(flujo(made.unpriced))

    @pytest.mark.parametrize(
        ("value", "told"), [([1], "TypeError"), ({"a": 1}, "KeyError"), ({"a": 1, "b": 2, "c": 3}, None)]
    )
    async def test_gather_wants_a_dict_with_its_keys(self, flujo: Open, value: Any, told: str | None) -> None:
        part = (await run(flujo(made.gathering), value)).step_history[0]

        assert part.success is (told is None)
        assert part.output == ({"b": 2, "a": 1} if told is None else None)
        assert (told or "") in (part.feedback or "")

    async def test_conditions_and_mappers_read_the_outputs_of_earlier_steps(self, flujo: Open) -> None:
        assert (await diary(flujo, made.reads_outputs)).output == [3, True, 2, 3]


class TestStreams:
    async def test_only_the_last_step_streams_and_its_chunks_name_it(self, flujo: Open) -> None:
        async with flujo(made.speaking_twice) as runner:
            items = [item async for item in runner.run_with_events("abc")]

        chunks = [item for item in items if isinstance(item, Chunk)]
        assert {chunk.step_name for chunk in chunks} == {"two"}
        assert "".join(chunk.data for chunk in chunks) == "<abc>"  # the first step's run() made that
        result = items[-1]
        assert isinstance(result, PipelineResult)
        assert result.output == "<abc>"

    @pytest.mark.parametrize(
        ("pipeline", "output"),
        [("speaking_bytes", b"hello"), ("speaking_numbers", "[0, 1, 2, 3, 4]"), ("speaking_nothing", "")],
    )
    async def test_its_output_is_the_joined_chunks_or_the_text_of_their_list(
        self, flujo: Open, pipeline: str, output: Any
    ) -> None:
        assert (await diary(flujo, getattr(made, pipeline), "hello")).output == output

    async def test_a_chunk_that_was_there_before_comes_again(self, flujo: Open) -> None:
        async with flujo(made.speaking_twice) as runner:
            items = [item async for item in runner.stream_async("hello")]

        assert "".join(items[:-1]) == "<hello>"

    async def test_one_that_breaks_off_shows_what_there_was_and_fails(self, flujo: Open) -> None:
        async with flujo(made.breaking_off) as runner:
            items = [item async for item in runner.stream_async("abc")]

        assert "".join(items[:-1]) == "abc"
        assert items[-1].success is False
        assert items[-1].step_history[0].feedback == "Agent execution failed with ConnectionError: hung up"


async def test_what_a_background_step_hands_on_is_checked_by_its_own_input(flujo: Open) -> None:
    """It returns text, and a number is what follows gets."""
    assert (await diary(flujo, made.handing_on)).output == 2
