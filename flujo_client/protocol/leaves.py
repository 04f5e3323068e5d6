"""The leaves of a spec: what a step, and a question to a human, are as pure data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from flujo_client.protocol.queues import DEFAULT_QUEUE

__all__ = ["HitlSpec", "Name", "RetrySpec", "SpecModel", "StepSpec"]

#: Names of pipelines, steps and queues: they stand in keys, task names and metrics.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:<>\-]{0,119}$")]


class SpecModel(BaseModel):
    """What all parts of a spec have in common: data that does not change, and nothing that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RetrySpec(SpecModel):
    """When a failed attempt is followed by another. Delays double from `base_ms` to `most_ms`, with full jitter if asked."""

    retries: int = Field(1, ge=0, description="attempts after the first")
    base_ms: int = Field(0, ge=0, description="delay before the first retry; 0 retries at once")
    most_ms: int = Field(60_000, ge=0)
    jitter: bool = True
    never: tuple[str, ...] = Field((), description="names of exception classes that are not retried")


class StepSpec(SpecModel):
    """A leaf: one queued task."""

    kind: Literal["step"] = "step"
    name: Name
    function: str = Field(description="module:qualname, or a registered name")
    queue: Name = DEFAULT_QUEUE
    retry: RetrySpec = RetrySpec()
    timeout_ms: int | None = Field(None, gt=0, description="per attempt; None: the lease's longest")
    estimate: dict[str, int] = Field(default_factory=dict, description="upper bound of an attempt's use, by meter")
    usage_limits: dict[str, int] = Field(default_factory=dict, description="most of all attempts together, by meter")
    is_async: bool = True
    streams: bool = Field(False, description="its chunks are shown while it runs, and its output is made of them")
    settings: dict[str, float] = Field(default_factory=dict, description="of the model: temperature, top_k, top_p")
    template: Any = Field(None, description="the input instead of the step before's output; may hold {{ }} templates")
    reads: tuple[str, ...] = Field((), description="earlier steps whose outputs it reads as well; * for all")
    uses_context: bool = False
    updates_context: bool = False
    validate_fields: bool = Field(False, description="only fields of the context's model may be updated")
    sink_to: str | None = None
    persist_feedback_to: str | None = Field(None, description="list in the context for the feedback of failures")
    persist_validation_to: str | None = Field(None, description="list in the context for what validators said")
    invariants: tuple[str, ...] = Field((), description="expressions that hold after it")
    invariant_functions: tuple[str, ...] = Field((), description="functions that hold after it, of its pipelines")
    strict: bool = Field(False, description="an output that a validator refused is dropped")
    on_worker_lost: Literal["retry", "fail", "pause"] = "retry"
    lost_spend: Literal["charge", "refund"] = "charge"
    input_type: str = "Any"
    output_type: str = "Any"
    preserve_fallback_diagnostics: bool = False
    fallback: StepSpec | None = Field(None, description="runs once on the same input when every attempt has failed")

    @property
    def wants_context(self) -> bool:
        """Whether an attempt needs the context, to read or to write."""
        kept = self.persist_feedback_to or self.persist_validation_to
        return self.uses_context or self.updates_context or self.sink_to is not None or kept is not None

    def with_invariants(self, rules: tuple[str, ...], functions: tuple[str, ...]) -> StepSpec:
        """The step under the invariants of a pipeline that it is part of."""
        changes: dict[str, Any] = {
            "invariants": (*self.invariants, *rules),
            "invariant_functions": (*self.invariant_functions, *functions),
            "uses_context": True,
            "fallback": None if self.fallback is None else self.fallback.with_invariants(rules, functions),
        }
        return self.model_copy(update=changes)


class HitlSpec(SpecModel):
    """A leaf that asks a human: a worker renders the question, nobody is held while it waits, and the answer is its output."""

    kind: Literal["hitl"] = "hitl"
    name: Name
    message: str | None = Field(None, description="template of the question; None: the input as text")
    answer_schema: dict[str, object] = Field(default_factory=dict, description="JSON schema of the answer")
    function: str = Field("", description="by which a worker knows the type of the answer")
    output_type: str = "Any"
    queue: Name = DEFAULT_QUEUE
    sink_to: str | None = None
    expires_ms: int | None = Field(None, gt=0, description="how long an answer is waited for")
    on_expiry: Literal["fail", "answer"] = "fail"
    default: Any = Field(None, description="the answer where nobody gives one in time")
    reminders_ms: tuple[int, ...] = Field((), description="when people are reminded, after the question")

    def alarms(self) -> list[tuple[str, int]]:
        """What is due how long after the question, ms."""
        ends = [] if self.expires_ms is None else [("expired", self.expires_ms)]
        return [*ends, *((f"reminded:{number}", at) for number, at in enumerate(self.reminders_ms, 1))]
