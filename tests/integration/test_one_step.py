"""What a step may have besides its function: in process and on a fleet, the same pipelines and the same results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import (
    ConfigurationError,
    Flujo,
    InfiniteRedirectError,
    MissingAgentError,
    Pipeline,
    PipelineResult,
    RunFailedError,
    RunStatus,
    Step,
    TypeMismatchError,
    UsageLimits,
)
from tests.integration import one_step
from tests.integration.conftest import Fleet, Modes
from tests.integration.one_step import Notes


@pytest.fixture(scope="module")
def worker_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker, which has this module's pipelines."""
    made = make_fleet("one-step", FLUJO_PIPELINES="tests.integration.one_step")
    made.manager()
    made.worker()
    asyncio.run(made.ready(1))
    return made


@pytest.fixture(params=["in process", "on a fleet"])
def modes(request: pytest.FixtureRequest) -> Modes:
    return Modes(None if request.param == "in process" else request.getfixturevalue("worker_fleet"))


def told(result: PipelineResult) -> str:
    return result.step_history[-1].feedback or ""


class TestAgents:
    async def test_objects_sync_ones_names_and_skills_are_agents(self, modes: Modes) -> None:
        result = await modes.run(one_step.agents, "you")

        outputs = [part.output for part in result.step_history]
        assert outputs[0].startswith("hello you")
        assert outputs[1] == f"hi {outputs[0]}"
        assert outputs[2].startswith("good day hi hello you")
        assert outputs[3].startswith("ahoy good day")

    async def test_an_agent_that_takes_any_keyword_gets_the_context_and_not_run(self, modes: Modes) -> None:
        result = await modes.run(one_step.agents, "you")

        asked = result.step_history[0].output.split()[2:]
        assert "context" in asked
        assert "run" not in asked
        assert "temperature" not in asked

    async def test_settings_of_the_model_are_passed_when_set_and_accepted(self, modes: Modes) -> None:
        assert (await modes.run(one_step.settings, "x")).output == [0.5, 3, 1.0]

    async def test_resources_are_entered_and_left_once_per_attempt_with_its_error(self, modes: Modes) -> None:
        result = await modes.run(one_step.pooled, [], **({} if modes.queued else {"resources": one_step.Pool()}))

        assert result.success, told(result)
        assert result.output == [1, "ValueError"]
        assert result.step_history[0].attempts == 2

    async def test_a_step_without_an_agent_raises_out_of_the_run(self) -> None:
        with pytest.raises(MissingAgentError, match="'nothing' has no agent"):
            await Flujo(Pipeline([Step(name="nothing")])).run_async("x")

    async def test_keyword_only_context_must_be_a_model(self) -> None:
        class Careless:
            async def run(self, data: Any, *, context: dict[str, Any]) -> Any:
                return data

        with pytest.raises(ConfigurationError, match="'context' parameter of step 'careless'"):
            await Flujo(Pipeline([Step(name="careless", agent=Careless())])).run_async("x")


class TestUsage:
    async def test_usage_is_read_from_what_agents_return_and_priced(self, modes: Modes) -> None:
        result = await modes.run(one_step.usage, "x")

        counted: list[Any] = [(part.output, part.token_counts, part.cost_usd) for part in result.step_history]
        assert counted[0] == ("priced", 1500, pytest.approx(0.0075))
        assert counted[1] == ({"x": 1}, 7, 0.25)
        assert counted[2][1:] == (3, 0.5)
        assert counted[3] == ("one token", 1, 0.0)
        assert result.total_tokens == 1511

    async def test_tokens_without_a_price_are_an_error_where_prices_are_strict(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from flujo_client import FlujoAgentResult, FlujoAgentUsage, PricingNotConfiguredError

        async def unheard(data: Any) -> FlujoAgentResult:
            return FlujoAgentResult("x", FlujoAgentUsage(5, 5), model="nobody:knows-it")

        pipeline = Pipeline([Step.from_callable(unheard)])
        relaxed = await Flujo(pipeline).run_async("x")
        monkeypatch.setenv("FLUJO_STRICT_PRICING", "1")

        assert (relaxed.total_tokens, relaxed.total_cost_usd) == (10, 0.0)
        with pytest.raises(PricingNotConfiguredError, match="knows-it"):
            await Flujo(pipeline).run_async("x")


class TestAttachments:
    async def test_processors_shape_the_input_and_the_output_in_order(self, modes: Modes) -> None:
        assert (await modes.run(one_step.processed, "  word ")).output == "WORD!"

    async def test_a_refused_output_fails_once_and_stands_in_the_result(self, modes: Modes) -> None:
        result = await modes.run(one_step.validated, "no", context_model=Notes)

        part = result.step_history[0]
        assert (result.success, part.attempts, part.output) == (False, 1, "no")
        assert part.feedback == "Validation failed: long enough: no is short"
        context = result.final_pipeline_context
        assert context.complaints == [part.feedback]
        assert [(finding["is_valid"], finding["score"]) for finding in context.findings] == [(False, 0.0)]

    async def test_what_validators_said_of_a_good_output_is_kept_as_well(self, modes: Modes) -> None:
        result = await modes.run(one_step.validated, "good", context_model=Notes)

        assert result.output == "good"
        assert [finding["validator_name"] for finding in result.final_pipeline_context.findings] == ["long enough"]

    async def test_a_strict_step_drops_a_refused_output(self, modes: Modes) -> None:
        part = (await modes.run(one_step.strict, "no")).step_history[0]

        assert (part.name, part.success, part.output) == ("validate", False, None)

    async def test_a_plugin_that_refuses_fails_the_step_at_its_first_attempt(self, modes: Modes) -> None:
        part = (await modes.run(one_step.guarded, "damn you")).step_history[0]

        assert (part.attempts, part.output) == (1, None)
        assert part.feedback == "Plugin execution failed: Plugin validation failed: mind your words"

    async def test_plugins_run_by_priority_redirect_and_correct(self, modes: Modes) -> None:
        assert (await modes.run(one_step.corrected, "damn you")).output == "dear "

    async def test_a_redirect_in_a_circle_raises_out_of_the_run(self, modes: Modes) -> None:
        with pytest.raises(InfiniteRedirectError):
            await modes.run(one_step.circular, "x")

    async def test_with_a_fallback_a_plugins_refusal_is_tried_again_and_told(self, modes: Modes) -> None:
        part = (await modes.run(one_step.backed_up, "damn you")).step_history[0]

        assert (part.name, part.output, part.attempts) == ("plan_b", "dear you", 3)
        assert part.metadata_["fallback_triggered"] is True
        assert "mind your words" in part.metadata_["original_error"]


class TestContext:
    async def test_feedback_outlives_its_attempt_and_nothing_else_does(self, modes: Modes) -> None:
        result = await modes.run(one_step.complaining, "x", context_model=Notes)

        assert result.success, told(result)
        assert result.step_history[0].attempts == 3
        first, second, n = result.output
        assert (first, second) == (
            "Agent execution failed with ValueError: attempt 1",
            "Agent execution failed with ValueError: attempt 2",
        )
        assert n == "1"

    async def test_outputs_are_merged_deep_into_the_context_and_sunk(self, modes: Modes) -> None:
        context = (await modes.run(one_step.updating, "x", context_model=Notes)).final_pipeline_context

        assert context.facts == {"a": {"x": 1, "y": 2}, "sunk": 7}
        assert context.n == 4
        assert context.place == one_step.Place(x=1, y=2)

    async def test_an_output_of_the_wrong_type_fails_the_step(self, modes: Modes) -> None:
        result = await modes.run(one_step.wrong, "x", context_model=Notes)

        assert told(result) == "Context validation failed: Field 'n' expects int but got str: notint"

    async def test_an_output_that_is_no_dict_cannot_update_the_context(self, modes: Modes) -> None:
        assert "Context validation failed" in told(await modes.run(one_step.not_a_dict, "x"))

    async def test_templates_read_earlier_steps_the_one_before_and_the_context(self, modes: Modes) -> None:
        result = await modes.run(one_step.templated, "go")

        assert result.success, told(result)
        assert [part.output for part in result.step_history[2:]] == ["first go and 8 go", 9]

    async def test_a_template_that_names_what_is_not_there_fails_the_step(self, modes: Modes) -> None:
        assert "nobody" in told(await modes.run(one_step.unresolved, "x"))

    async def test_a_function_that_says_step_outputs_gets_those_of_all_steps_before(self, modes: Modes) -> None:
        result = await modes.run(one_step.collecting, "go", context_model=Notes)

        assert result.success, told(result)
        assert result.output == ["x", {"first": "first go", "second": {"count": 8}, "shown": "x"}]

    async def test_use_input_selects_a_key_and_a_missing_one_fails(self, modes: Modes) -> None:
        assert (await modes.run(one_step.selecting, {"text": "four"})).output == {"count": 4}
        assert "KeyError" in told(await modes.run(one_step.selecting, {"other": "x"}))


class TestInvariants:
    @pytest.mark.parametrize(
        ("value", "rule"), [(2, "context.n > 2"), (5, "even"), (6, "output.n != 6"), (200, "small"), (8, None)]
    )
    async def test_invariants_of_step_and_pipeline_hold_after_each_step(
        self, modes: Modes, value: int, rule: str | None
    ) -> None:
        result = await modes.run(one_step.bounded, value, context_model=Notes)

        part = result.step_history[0]
        if rule is None:
            assert result.status is RunStatus.COMPLETED
        else:
            assert part.feedback == f"Invariant violated: {rule}"
            assert [violation["rule"] for violation in part.metadata_["invariant_violations"]] == [rule]
            assert result.final_pipeline_context.n == 0


class TestTypes:
    async def test_optional_union_generic_dataclass_and_typed_dict_values_flow_as_declared(self, modes: Modes) -> None:
        result = await modes.run(one_step.typed, "x")

        assert result.success, told(result)
        assert result.output == [True, True]

    async def test_a_subclass_reaches_a_step_whole(self, modes: Modes) -> None:
        assert (await modes.run(one_step.dogs, "rex")).output == ["rex", 2]

    async def test_none_is_accepted_where_it_is_declared_or_nothing_is(self, modes: Modes) -> None:
        assert (await modes.run(one_step.bare_none, "x")).output == [None]

    async def test_a_value_that_does_not_fit_raises_out_of_the_run(self, modes: Modes) -> None:
        with pytest.raises(TypeMismatchError, match=r"^Type mismatch: Output of 'any_none' \(returns Any\)"):
            await modes.run(one_step.none_mismatch, "x")


async def test_an_adapter_stands_between_types_that_do_not_fit(modes: Modes) -> None:
    assert (await modes.run(one_step.adapted, "go")).output == "8"


async def test_a_limit_counts_what_agents_say_that_they_used(modes: Modes) -> None:
    from flujo_client import UsageLimitExceededError

    with pytest.raises(UsageLimitExceededError, match="Token limit of 100 exceeded"):
        await modes.run(one_step.usage, "x", usage_limits=UsageLimits(total_tokens_limit=100))


async def test_failure_handlers_are_called_where_the_step_ran_and_may_end_the_run(modes: Modes) -> None:
    result = await modes.run(one_step.paged, "chair")

    assert result.output == ["first", "second"]
    with pytest.raises(RunFailedError, match="RuntimeError: no pager"):
        await modes.run(one_step.unpaged, "chair")


async def test_what_a_step_declares_to_read_and_write_is_looked_for(modes: Modes) -> None:
    result = await modes.run(one_step.keyed, "moon", context_model=Notes)

    assert result.step_history[0].success
    assert told(result) == "Context validation failed: Step 'forgets' has not written what it declares: 'facts.body'"
