"""What the error of a run is."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, Step
from flujo_client.protocol.errors import RunFailedError
from flujo_client.protocol.outcomes import to_outcome, unwrap


async def fail(value: Any) -> Any:
    raise ValueError("no page")


async def echo(value: Any) -> Any:
    return value


async def never(value: Any, context: Any = None) -> bool:
    return False


def key(value: Any, context: Any = None) -> str:
    return "z"


def _step(function: Any, name: str) -> Step[Any, Any]:
    return Step.from_callable(function, name=name, max_retries=0)


def _pipeline(*steps: Step[Any, Any]) -> Pipeline:
    return Pipeline(list(steps), name="p")


FAILED: dict[str, tuple[Pipeline, str]] = {
    "a step": (
        _pipeline(_step(echo, "first"), _step(fail, "second")),
        "step 'second': Agent execution failed with ValueError: no page",
    ),
    "a branch": (
        _pipeline(Step.parallel("both", {"good": _step(echo, "one"), "bad": _step(fail, "two")})),
        "step 'two': Agent execution failed with ValueError: no page",
    ),
    "a condition": (
        _pipeline(Step.branch_on("choose", condition_callable=key, branches={"a": _step(echo, "one")})),
        "step 'choose': No branch found for key 'z' and no default branch provided",
    ),
    "a loop": (
        _pipeline(Step.loop_until("again", _step(echo, "body"), exit_condition_callable=never, max_loops=2)),
        "step 'again': reached max_loops",
    ),
}


@pytest.mark.parametrize("case", FAILED)
async def test_a_failure_is_the_error_of_its_run_and_nobody_raises_it(case: str) -> None:
    pipeline, text = FAILED[case]

    async with Flujo(pipeline) as flujo:
        result = await flujo.run_async(1, run_id="order-1")

    assert not result.success
    assert result.error is not None
    assert result.error["message"].startswith(text)
    assert result.error["data"]["run_id"] == "order-1"
    with pytest.raises(RunFailedError):
        unwrap(to_outcome(result))


async def test_a_run_that_completed_has_no_error() -> None:
    result = await Flujo(_pipeline(_step(echo, "one"))).run_result_async(1)

    assert result.error is None
