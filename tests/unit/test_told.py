"""What cannot be made is told in one line: the option, what it was, the name that was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import Account, Flujo, Step, StepConfig, UsageLimits, step
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.told import meant


@step
async def echo(text: str) -> str:
    return text


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown limit": (
        lambda: UsageLimits(total_cost=3),  # type: ignore[call-arg]  # the fault
        "UsageLimits cannot be made: total_cost is no option of it (did you mean total_cost_usd_limit?).",
    ),
    "two faults": (
        lambda: UsageLimits(total_tokens_limit=-1, meters={"a b": 1}),
        "UsageLimits cannot be made: total_tokens_limit: Input should be greater than or equal to 0, not -1; "
        "meters.a b: String should match pattern '^[A-Za-z0-9_]+$', not 'a b'.",
    ),
    "a long value": (
        lambda: UsageLimits.model_validate({"total_tokens_limit": "many " * 20}),
        "UsageLimits cannot be made: total_tokens_limit: Input should be a valid integer, unable to parse string as an integer.",
    ),
    "no limits": (
        lambda: Flujo(echo, usage_limits=3),  # type: ignore[arg-type]  # the fault
        "UsageLimits cannot be made: Input should be a valid dictionary or instance of UsageLimits, not 3.",
    ),
    "map_over": (
        lambda: Step.map_over("pages", echo, max_concurrency=0, on_item_failure="ignore", iterable_inputs="x"),
        "Step 'pages' cannot be made: max_concurrency: Input should be greater than or equal to 1, not 0; on_item_failure: Input "
        "should be 'fail', 'none' or 'skip', not 'ignore'; iterable_inputs is no option of it (did you mean iterable_input?).",
    ),
    "one fault of two kinds": (
        lambda: Step.parallel("both", {"a": echo}, merge_strategy=3),
        "Step 'both' cannot be made: merge_strategy.str-enum[MergeStrategy]: Input should be 'no_merge', 'overwrite', "
        "'context_update', 'error_on_conflict' or 'keep_first', not 3.",
    ),
    "config": (
        lambda: StepConfig(retries=3),  # type: ignore[call-arg]  # the fault
        "StepConfig cannot be made: retries is no option of it (did you mean max_retries?).",
    ),
    "a name": (
        lambda: Step.from_callable(lambda text: text),
        "Step '<lambda>' cannot be made: name: '<lambda>' names no step: use up to 120 letters, digits and _.:<>- that begin with "
        "a letter, a digit or _.",
    ),
    "no dict": (
        lambda: Step.model_validate(3),
        "Step '3' cannot be made: Input should be a valid dictionary or instance of Step",
    ),
    "account": (
        lambda: Account(name="a", slots=0),
        "Account cannot be made: slots: Input should be greater than or equal to 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_made_is_one_line_that_names_each_option(case: str) -> None:
    make, told = WRONG[case]

    with pytest.raises(ConfigurationError) as caught:
        make()

    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_limits_may_be_given_as_a_dict() -> None:
    limits: Any = {"total_tokens_limit": 3}

    assert Flujo(echo, usage_limits=limits).run("x").output == "x"


def test_a_step_falls_back_on_a_step() -> None:
    other: Any = "other"

    with pytest.raises(TypeError, match="Step 'echo' falls back on a step, not on str"):
        echo.fallback(other)


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("tokens", ["total_tokens_limit", "meters"], " (did you mean total_tokens_limit?)"),
        ("nope", ["digest", "other"], " (it has digest, other)"),
        ("nope", [f"pipeline_{number}" for number in range(20)], ""),
    ],
)
def test_a_name_that_is_not_known_is_told_what_was_meant(name: str, known: list[str], told: str) -> None:
    assert meant(name, known) == told


def test_one_function_stands_in_a_pipeline_under_two_names() -> None:
    again = echo.named("again")

    result = Flujo(echo >> again).run("x")

    assert [(part.name, part.output) for part in result.step_history] == [("echo", "x"), ("again", "x")]
    assert (again.to_leaf().function, again.meta is echo.meta) == (echo.to_leaf().function, False)
    with pytest.raises(ConfigurationError, match="'a b' names no step: use up to 120 letters"):
        echo.named("a b")
