"""One attempt on its way through a worker, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.errors import SchemaMismatchError, UsageLimitExceededError
from flujo_client.protocol.messages import StepRef, TaskRecord
from flujo_client.protocol.quota import Amounts
from flujo_client.protocol.replies import Claim, Reserved
from flujo_client.protocol.results import StepResult
from flujo_client.protocol.spec import StepSpec
from flujo_client.protocol.step_run import UsageMeter
from flujo_client.protocol.types import StepDefinition

__all__ = ["Attempt", "AttemptEnd", "read_task"]


@dataclass(slots=True)
class Attempt:
    """One attempt under way.

    Attributes:
        fault: Why its task cannot be run at all.
        definition: The step; None for a control step.
        leased: Whether its lease certainly holds.
        begun: A user's function may have been called.
        quota_before: What its account could pay before, as (USD, tokens).
        in_thread: A sync function of it runs in a thread, where nothing can stop it.
        settling: Its body has ended and its end is being committed: it must not be stopped any more.
        role: Of a control step: which of the user's functions was called last.
        metadata: Facts for the result.
        measured: What its agents' answers say that they used; counts if the step itself reported nothing.
        kept_output: An output that a failure shows all the same, if there is one.
        kept_context: What a failure changes in the context all the same.
        stop_reason: Why it was told to stop, once it was: `run ended`, `terminated` or `handed_over`.
    """

    ref: StepRef
    claim: Claim
    reserved: Reserved
    task: TaskRecord
    fault: SchemaMismatchError | None
    meter: UsageMeter
    definition: StepDefinition | None
    leased: Callable[[], bool]
    started: float = field(default_factory=time.monotonic)
    begun: bool = False
    stop_reason: str | None = None
    in_thread: bool = False
    settling: bool = False
    role: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    measured: Amounts = field(default_factory=dict)
    kept_output: tuple[Any, ...] = ()
    kept_context: tuple[str, dict[str, Any]] | None = None
    quota_before: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        """Take the estimate from what this process holds of the budget, as reserve.lua took it from the accounts."""
        self.quota_before = self.meter.quota.get_remaining()
        self.meter.quota.reserve(self.task.step.estimate)

    def begin(self) -> None:
        """The last before a user's function is called: what lost its lease on the way, as a process that was stopped, is not begun.

        Others may run it by now, and have committed it. What is left is a stop between this line and the function's first.

        Raises:
            CancelledError: The attempt is handed over; its lease goes to another worker, if it has not gone already.
        """
        if not self.leased():
            self.stop_reason = "handed_over"
            raise asyncio.CancelledError
        self.begun = True

    @property
    def used(self) -> Amounts:
        """What it is known to have used so far: what the step reported, else what its agents' answers said."""
        return dict(self.meter.used or self.measured)

    @property
    def ids(self) -> dict[str, Any]:
        """What log lines say of it."""
        return {"run_id": self.ref.run_id, "path": self.ref.path, "attempt": self.ref.attempt}


@dataclass(slots=True)
class AttemptEnd:
    """How an attempt ended, as it will be committed.

    Attributes:
        verdict: What a control step tells `advance()`.
        stores: Whether there is an output; of a failure, one that is shown and goes nowhere.
        outcome: `succeeded`, `failed`, or why nothing was: `duplicate`, `inactive`, `blocked`, `refused`, `not_here`, `late`, `lost`,
            `handed_over`.
    """

    outcome: str
    output: Any = None
    error: BaseException | None = None
    context: tuple[str, dict[str, Any]] | None = None
    usage: Amounts = field(default_factory=dict)
    result: StepResult | None = None
    verdict: dict[str, Any] = field(default_factory=dict)
    stores: bool = True

    @classmethod
    def failure(cls, attempt: Attempt, error: BaseException) -> AttemptEnd:
        """The end of an attempt that failed on its way, with what it keeps. A refusal of its budget stays one, whatever wraps it."""
        kept, error = attempt.kept_output, _refusal_in(error, attempt.meter.refusals) or error
        return cls("failed", kept[0] if kept else None, error, attempt.kept_context, stores=bool(kept))


def _refusal_in(error: BaseException, refusals: Sequence[UsageLimitExceededError]) -> BaseException | None:
    """Which of an attempt's refusals caused an error: a provider's client may wrap what its transport raises in an error of its own.

    Only its own: a run that the step itself made may have been refused, and what the step makes of that is the step's.
    """
    causes, seen = [error], set[int]()
    while causes:
        cause = causes.pop()
        if any(cause is refusal for refusal in refusals):
            return cause
        if id(cause) not in seen:  # an error may be its own cause
            seen.add(id(cause))
            parts = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause.__cause__,)
            causes += [part for part in parts if part is not None]
    return None


def read_task(ref: StepRef, text: bytes) -> tuple[TaskRecord, SchemaMismatchError | None]:
    """Read what was journalled with a dispatch; a stand-in and what is wrong with it where that cannot be read."""
    try:
        return TaskRecord.model_validate_json(text), None
    except PydanticValidationError as error:
        fault = SchemaMismatchError(
            f"Run {ref.run_id}, step {ref.path}: its task cannot be read: {error.errors(include_url=False)[0]['msg']}.",
            suggestion="A newer manager wrote it: upgrade this worker.",
        )
        unread = TaskRecord(pipeline="", step=StepSpec(name=ref.path, function=ref.function), expression="")
        return unread, fault
