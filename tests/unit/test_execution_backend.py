"""Execution backends: carry out steps' functions in place of the caller's process."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import (
    ConfigurationError,
    ExecutionBackend,
    Failure,
    Flujo,
    Pipeline,
    StepExecutionRequest,
    StepResult,
    Success,
    UsageLimitExceededError,
    UsageLimits,
    step,
)


@step
async def add(number: int) -> int:
    return number + 1


class Backend:
    """Answers what a test says."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[StepExecutionRequest] = []

    async def execute_step(self, request: StepExecutionRequest) -> Any:
        self.asked.append(request)
        return self.answer(request) if callable(self.answer) else self.answer


def test_it_gets_the_step_with_everything_prepared_and_its_answer_is_the_output() -> None:
    backend = Backend(lambda request: StepResult(name="add", output=request.input_data * 10, token_counts=7))

    result = Flujo(add, backend=backend).run(4)

    assert isinstance(backend, ExecutionBackend)
    assert (result.output, result.total_tokens) == (40, 7)
    assert backend.asked[0].step.name == "add"
    assert backend.asked[0].run.attempt == 1


def test_it_may_go_on_here() -> None:
    class Logging:
        async def execute_step(self, request: StepExecutionRequest) -> Success:
            return Success(step_result=StepResult(name=request.step.name, output=await request.proceed()))

    assert Flujo(add, backend=Logging()).run(1).output == 2


@pytest.mark.parametrize(
    "answer", [StepResult(name="add", success=False, feedback="no worker"), Failure(feedback="no worker")]
)
def test_its_failure_is_one_attempts(answer: Any) -> None:
    backend = Backend(answer)

    result = Flujo(add, backend=backend).run(1)

    assert (result.success, len(backend.asked)) == (False, 2)
    assert "no worker" in (result.step_history[0].feedback or "")


def test_an_error_in_its_outcome_is_raised_as_what_it_is() -> None:
    with pytest.raises(UsageLimitExceededError):
        Flujo(add, backend=Backend(Failure(error=UsageLimitExceededError("enough")))).run(1)


def test_what_it_used_counts_against_the_budget() -> None:
    backend = Backend(StepResult(name="add", output=1, token_counts=50))

    with pytest.raises(UsageLimitExceededError):
        Flujo(add, backend=backend, usage_limits=UsageLimits(total_tokens_limit=10)).run(1)


async def test_a_fleet_has_no_use_for_it() -> None:
    flujo = Flujo(Pipeline([add], name="adding"), backend=Backend(None), url="redis://localhost:1")

    with pytest.raises(ConfigurationError, match="backend="):
        await flujo.run_async(1)
