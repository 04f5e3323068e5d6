"""Outcomes: what came of a step or a run, as one tagged envelope that any process can read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

from flujo_client.protocol.envelopes import describe_error, rebuild_error
from flujo_client.protocol.errors import ExecutionError, PausedException, PipelineAbortSignal
from flujo_client.protocol.results import PipelineResult, RunStatus, StepResult

__all__ = [
    "Aborted",
    "BackgroundLaunched",
    "Chunk",
    "Failure",
    "Paused",
    "StepOutcome",
    "Success",
    "outcome_json",
    "read_outcome",
    "to_outcome",
    "unwrap",
]


class _Outcome(BaseModel):
    model_config = ConfigDict(frozen=True)


class Success(_Outcome):
    """A step, or the run, succeeded."""

    kind: Literal["success"] = "success"
    step_result: StepResult


class Failure(_Outcome):
    """A step, or the run, failed.

    Attributes:
        error: The envelope of the error that ended it, or the error itself, which becomes one.
    """

    kind: Literal["failure"] = "failure"
    feedback: str | None = None
    error: dict[str, Any] | None = None
    step_result: StepResult | None = None

    @field_validator("error", mode="before")
    @classmethod
    def _enveloped(cls, error: Any) -> Any:
        return describe_error(error) if isinstance(error, BaseException) else error


class Paused(_Outcome):
    """The run waits for an answer."""

    kind: Literal["paused"] = "paused"
    message: str = ""


class Aborted(_Outcome):
    """The run was ended on purpose."""

    kind: Literal["aborted"] = "aborted"
    reason: str = ""


class Chunk(_Outcome):
    """A piece of a running step's stream."""

    kind: Literal["chunk"] = "chunk"
    data: Any = None
    step_name: str = ""
    attempt: int = 1
    sequence: int = 0


class BackgroundLaunched(_Outcome):
    """A step went on in the background."""

    kind: Literal["background_launched"] = "background_launched"
    task_id: str
    step_name: str = ""


StepOutcome = Success | Failure | Paused | Aborted | Chunk | BackgroundLaunched

_ENVELOPE: TypeAdapter[StepOutcome] = TypeAdapter(Annotated[StepOutcome, Field(discriminator="kind")])


def outcome_json(outcome: StepOutcome) -> bytes:
    """The envelope of an outcome: JSON with its tag in `kind`. Contexts and outputs become JSON values."""
    return _ENVELOPE.dump_json(outcome, serialize_as_any=True)


def read_outcome(text: str | bytes) -> StepOutcome:
    """The outcome of an envelope. Raises pydantic's `ValidationError` for what is none."""
    return _ENVELOPE.validate_json(text)


def to_outcome(result: StepResult | PipelineResult) -> StepOutcome:
    """What came of a step or a run, by its result.

    A run's `Success` carries its last step, its `Failure` the step that failed and the error that ended it.
    """
    if isinstance(result, StepResult):
        return Success(step_result=result) if result.success else Failure(feedback=result.feedback, step_result=result)
    last = result.step_history[-1] if result.step_history else None
    message = (result.error or {}).get("message")
    if result.status is RunStatus.PAUSED:
        return Paused(message=getattr(result.final_pipeline_context, "pause_message", None) or "")
    if result.status in (RunStatus.ABORTED, RunStatus.CANCELLED):
        return Aborted(reason=message or result.status.value)
    if result.success:
        return Success(step_result=last or StepResult(name=result.run_id))
    return Failure(feedback=(last.feedback if last else None) or message, error=result.error, step_result=last)


def unwrap(outcome: StepOutcome) -> Any:
    """The output of a success.

    Raises:
        FlujoError: The error of a failure, with its data; `ExecutionError` with its feedback where there is none.
        PausedException: The outcome is a pause.
        PipelineAbortSignal: It is an abort.
        ExecutionError: It is none that ends anything: a chunk, or a launch.
    """
    if isinstance(outcome, Success):
        return outcome.step_result.output
    if isinstance(outcome, Failure):
        if outcome.error is not None:
            raise rebuild_error(outcome.error)
        raise ExecutionError(outcome.feedback or "A step failed without a word.")
    if isinstance(outcome, Paused):
        raise PausedException(outcome.message)
    if isinstance(outcome, Aborted):
        raise PipelineAbortSignal(outcome.reason)
    raise ExecutionError(f"A {outcome.kind} outcome has no output: wait for the one that ends the step.")
