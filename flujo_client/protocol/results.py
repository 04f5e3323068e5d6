"""What a run and its steps leave behind: results, the context, and the payloads of hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from flujo_client.protocol.pipeline_context import ConversationRole, ConversationTurn, HumanInteraction, PipelineContext

__all__ = [
    "FAILED_BRANCH",
    "ConversationRole",
    "ConversationTurn",
    "HookPayload",
    "HumanInteraction",
    "OnLimitPayload",
    "OnLimitWarningPayload",
    "OnPauseRequestedPayload",
    "OnStepFailurePayload",
    "Pause",
    "PipelineContext",
    "PipelineResult",
    "PostRunPayload",
    "PostStepPayload",
    "PreRunPayload",
    "PreStepPayload",
    "RunStatus",
    "StepResult",
    "as_read",
    "branch_outputs",
]

#: How the payloads are called that are the results of branches whose failure was ignored.
FAILED_BRANCH: Final = "failed"


class RunStatus(StrEnum):
    """Where a run stands. Every change has its arrow in docs/state_machine.md."""

    RUNNING = "running"  # steps are running, queued, or waiting for their time
    PAUSED = "paused"  # nothing can run until somebody answers
    COMPLETED = "completed"  # every step is committed
    FAILED = "failed"  # a step failed for good, or the budget could not pay
    CANCELLED = "cancelled"  # somebody cancelled it
    ABORTED = "aborted"  # a hook ended it

    @property
    def terminal(self) -> bool:
        """Whether the run has ended."""
        return self not in (RunStatus.RUNNING, RunStatus.PAUSED)


class Pause(BaseModel):
    """A question of a run that nobody has answered yet."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    token: str = Field(description="names the pause; to be given with the answer where a run asks several questions")
    step_name: str
    message: str
    asked_at: datetime
    expires_at: datetime | None = Field(None, description="when its time is up; None: never")
    answer_schema: dict[str, Any] = Field(default_factory=dict, description="JSON schema that the answer must fit")
    dead_letter: bool = Field(False, description="no question: its worker died, `flujo dead` says what becomes of it")


class StepResult(BaseModel):
    """The outcome of one node of a pipeline."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    output: Any = None
    success: bool = True
    attempts: int = 0
    latency_s: float = 0.0
    token_counts: int = 0
    cost_usd: float = 0.0
    feedback: str | None = None
    branch_context: Any = None
    metadata_: dict[str, Any] = Field(default_factory=dict)
    step_history: list[StepResult] = Field(default_factory=list)

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts about how the result came to be."""
        return self.metadata_


def branch_outputs(names: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a parallel step shows that failed: by branch its output, or the result of a branch that failed.

    Args:
        names: Of the branches.
        parts: Their results as JSON, with their outputs.
    """
    return {
        name: part["output"] if part["success"] else StepResult.model_validate(part)
        for name, part in zip(names, parts, strict=True)
    }


def as_read(field: str, value: Any) -> Any:
    """The value of a payload field as its readers get it: the result of a failed branch is a `StepResult`, also out of JSON."""
    return StepResult.model_validate(value) if field.startswith(f"{FAILED_BRANCH}:") else value


class PipelineResult(BaseModel):
    """The outcome of a run: the results of its top-level nodes, in order."""

    model_config = ConfigDict(extra="allow")

    step_history: list[StepResult] = Field(default_factory=list)
    total_cost_usd: float = 0.0
    total_tokens: int = 0
    final_pipeline_context: Any = None
    trace_tree: Any = None
    success: bool = True
    run_id: str = ""
    status: RunStatus = RunStatus.COMPLETED
    error: dict[str, Any] | None = None
    left_by_caller: bool = Field(
        False, description="the run outlived its caller, whose hooks were not called any more after that"
    )
    usage: dict[str, int] = Field(default_factory=dict, description="what the run used, by meter; nano-USD for cost")
    pause_token: str | None = Field(None, description="names the question that a paused run asks first")

    @field_validator("final_pipeline_context")
    @classmethod
    def _context_from_json(cls, context: Any) -> Any:
        """A result that came as JSON has its context's fields as attributes all the same."""
        return PipelineContext.model_validate(context) if isinstance(context, dict) else context

    @property
    def output(self) -> Any:
        """The last node's output; None when there is none."""
        return self.step_history[-1].output if self.step_history else None


class HookPayload(BaseModel):
    """What every hook is told."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    event_name: ClassVar[str]
    context: Any = None
    resources: Any = None
    is_background: bool = False


class PreRunPayload(HookPayload):
    """Before a run's first step."""

    event_name: ClassVar[str] = "pre_run"
    initial_input: Any = None
    run_id: str = ""
    pipeline_name: str = ""
    pipeline_version: str = "latest"
    initial_budget_cost_usd: float | None = None
    initial_budget_tokens: int | None = None


class PostRunPayload(HookPayload):
    """After a run has ended."""

    event_name: ClassVar[str] = "post_run"
    pipeline_result: PipelineResult


class _StepHookPayload(HookPayload):
    run_id: str = ""
    path: str = Field("", description="place of the step in the run, such as 1.0.2")

    @property
    def depth(self) -> int:
        """0 for a step of the pipeline itself, more for one inside others."""
        return self.path.count(".")


class PreStepPayload(_StepHookPayload):
    """Before an attempt."""

    event_name: ClassVar[str] = "pre_step"
    step: Any = None
    step_input: Any = None
    attempt_number: int = 1
    quota_before_usd: float | None = None
    quota_before_tokens: int | None = None
    cache_hit: bool = False


class PostStepPayload(_StepHookPayload):
    """After a step's result was committed."""

    event_name: ClassVar[str] = "post_step"
    step_result: StepResult


class OnPauseRequestedPayload(_StepHookPayload):
    """A step waits for an answer."""

    event_name: ClassVar[str] = "on_pause_requested"
    step_name: str = ""
    pause_message: str = ""
    reminder: int = Field(0, description="0 for the question itself, 1 for its first reminder")


class OnLimitPayload(_StepHookPayload):
    """The budget could not pay for a step, which ends the run."""

    event_name: ClassVar[str] = "on_limit"
    step_name: str = ""
    message: str = ""
    limit: dict[str, str] = Field(
        default_factory=dict, description="the account, its meter, and what was asked and free, or overrun"
    )


class OnLimitWarningPayload(_StepHookPayload):
    """The run has used 80 % of a limit, once per meter; `path` is the step whose end told."""

    event_name: ClassVar[str] = "on_limit_warning"
    meter: str = ""
    used: int = Field(0, description="by all steps that have ended; nano-USD for cost")
    limit: int = Field(0, description="of the run")


class OnStepFailurePayload(_StepHookPayload):
    """After a step failed for good."""

    event_name: ClassVar[str] = "on_step_failure"
    step_result: StepResult
