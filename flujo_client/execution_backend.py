"""`ExecutionBackend`: carries out steps' functions in the in-process mode, elsewhere or otherwise; and the policy that asks it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from flujo_client.protocol.errors import OrchestratorRetryError
from flujo_client.protocol.outcomes import Failure, StepOutcome, Success, to_outcome, unwrap
from flujo_client.protocol.results import StepResult
from flujo_client.protocol.step_run import StepRun
from flujo_client.protocol.types import StepDefinition

__all__ = ["BackendPolicy", "ExecutionBackend", "StepExecutionRequest"]


@dataclass(frozen=True, slots=True)
class StepExecutionRequest:
    """One attempt of a step, with everything prepared.

    Attributes:
        step: What is to be run; its function is `step.call`.
        input_data: As the step declares it, after its prompt processors.
        context: The attempt's own copy; None if the step has nothing to do with it. What is changed in it is committed.
        resources: Of the runner.
        run: The attempt itself.
        proceed: Calls the function here, as if there were no backend, and returns its output.
    """

    step: StepDefinition
    input_data: Any
    context: Any
    resources: Any
    run: StepRun
    proceed: Callable[[], Awaitable[Any]]


@runtime_checkable
class ExecutionBackend(Protocol):
    """Carries out the functions of steps. Everything around them stays as it is: retries, limits, validators, contexts."""

    async def execute_step(self, request: StepExecutionRequest) -> StepResult | StepOutcome:
        """Run one attempt.

        Returns:
            Its output with what it used, as a `StepResult`, or as an outcome around one. A failure is one attempt's; what is
            raised is one as well.
        """


class BackendPolicy:
    """Has a backend run the functions of steps; see `Policy`.

    Args:
        backend: The user's.
    """

    def __init__(self, backend: ExecutionBackend) -> None:
        self._backend = backend

    async def __call__(self, call: Any, proceed: Callable[[Any], Awaitable[Any]]) -> Any:
        """Ask the backend.

        Raises:
            OrchestratorRetryError: It says that the attempt failed.
            FlujoError: What its outcome carries.
        """
        run: StepRun = call.injected["run"]
        request = StepExecutionRequest(
            step=call.definition,
            input_data=call.value,
            context=call.context_model,
            resources=call.injected.get("resources"),
            run=run,
            proceed=lambda: proceed(call),
        )
        answer = await self._backend.execute_step(request)
        outcome = to_outcome(answer) if isinstance(answer, StepResult) else answer
        if isinstance(outcome, Success | Failure) and outcome.step_result is not None:
            used = outcome.step_result
            run.usage.add(tokens=used.token_counts, cost_usd=used.cost_usd)
        if isinstance(outcome, Failure) and outcome.error is None:
            raise OrchestratorRetryError(outcome.feedback or "The backend says that the attempt failed, and not why.")
        return unwrap(outcome)
