"""Budgets as pipelines declare them, in process: splits, steps with limits of their own, and what a breach leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, PipelineResult, RunStatus, Step, StepRun, UsageLimitExceededError, UsageLimits
from flujo_client.protocol.errors import ConfigurationError

TOKENS = UsageLimits(total_tokens_limit=100)


def uses(tokens: int, expected: int = 0, **options: Any) -> Step[Any, Any]:
    """A step that asks for `expected` tokens and uses `tokens`."""

    async def use(value: Any, run: StepRun) -> Any:
        run.usage.add(tokens=tokens)
        return value

    return Step.from_callable(use, name="use", max_retries=0, expected_tokens=expected, **options)


def breach(pipeline: Pipeline, limits: UsageLimits | None = TOKENS) -> tuple[UsageLimitExceededError, PipelineResult]:
    with pytest.raises(UsageLimitExceededError) as caught:
        Flujo(pipeline, usage_limits=limits).run(1)
    result = caught.value.result
    assert isinstance(result, PipelineResult)
    return caught.value, result


def test_a_strict_split_refuses_what_is_beyond_a_share_although_the_tree_could_pay() -> None:
    branches = {"a": uses(1, 51), "b": uses(1, 10)}

    assert Flujo(Pipeline([Step.parallel("par", branches)]), usage_limits=TOKENS).run(1).status is RunStatus.COMPLETED
    error, _ = breach(Pipeline([Step.parallel("par", branches, split="strict")]))

    assert {key: error.data[key] for key in ("account", "meter", "asked", "free")} == {
        "account": "0.0",
        "meter": "tokens",
        "asked": 51,
        "free": 50,
    }


def test_weights_share_out_what_is_free() -> None:
    branches = {"a": uses(70, 70), "b": uses(30, 30)}

    result = Flujo(Pipeline([Step.parallel("par", branches, split={"a": 7, "b": 3})]), usage_limits=TOKENS).run(1)

    assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 100)


@pytest.mark.parametrize("split", [{"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": 1, "c": 1}])
def test_every_branch_needs_a_weight(split: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="weight of 1 or more"):
        Step.parallel("par", {"a": uses(1), "b": uses(1)}, split=split)


def test_a_step_is_denied_what_is_beyond_its_own_limits() -> None:
    own = UsageLimits(total_tokens_limit=20)

    error, result = breach(Pipeline([uses(1), uses(1, 21, usage_limits=own)]), None)

    assert str(error).startswith("Token limit of 20 exceeded")
    assert error.data["account"] == "1"
    first, denied = result.step_history
    assert (first.success, denied.success, denied.attempts, denied.token_counts) == (True, False, 0, 21)
    assert denied.metadata_["exit_reason"] == "quota_reservation_denied"


def test_what_a_step_uses_beyond_its_own_limits_ends_the_run_and_is_shown() -> None:
    error, result = breach(Pipeline([uses(30, usage_limits=UsageLimits(total_tokens_limit=20))]))

    assert str(error).startswith("Token limit of 20 exceeded")
    assert (result.step_history[0].success, result.step_history[0].token_counts) == (True, 30)
    assert result.total_tokens == 30


def test_a_step_with_wider_limits_of_its_own_meets_those_of_the_run() -> None:
    error, _ = breach(Pipeline([uses(1, 120, usage_limits=UsageLimits(total_tokens_limit=200))]))

    assert str(error).startswith("Token limit of 100 exceeded")
    assert (error.data["account"], error.data["free"]) == ("root", 100)


def test_a_loop_that_the_budget_stopped_says_so() -> None:
    loop = Step.loop_until("loop", Pipeline([uses(30, 30)]), lambda out, context: False, max_loops=9)

    _, result = breach(Pipeline([loop]))

    (step,) = result.step_history
    assert (step.name, step.success, step.metadata_["exit_reason"]) == ("loop", False, "quota_limit_exceeded")


async def first(value: Any, context: Any = None) -> str:
    return "a"


@pytest.mark.parametrize(
    "composite",
    [
        Step.parallel("outer", {"a": uses(1, 101), "b": uses(1)}),
        Step.branch_on("outer", first, {"a": Pipeline([uses(1, 101)])}),
        Step.map_over("outer", Pipeline([uses(1, 101)]), iterable_input="items"),
        Pipeline([uses(1, 101)], name="inner").as_step(name="outer"),
    ],
    ids=["parallel", "condition", "map", "pipeline"],
)
def test_the_history_ends_with_the_step_that_the_budget_could_not_pay(composite: Step[Any, Any]) -> None:
    with pytest.raises(UsageLimitExceededError) as caught:
        Flujo(Pipeline([uses(1), composite]), usage_limits=TOKENS, initial_context_data={"items": [1]}).run(1)

    before, breaching = caught.value.result.step_history
    assert (before.success, breaching.name, breaching.success) == (True, "outer", False)
