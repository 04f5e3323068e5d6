"""The leaves of a spec: what a step, and a question to a human, are as pure data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import BaseModel, ConfigDict, Field

from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.queues import DEFAULT_QUEUE

__all__ = [
    "CONTROLS",
    "HANDLERS",
    "HitlSpec",
    "Name",
    "NamedNode",
    "NodeModel",
    "RetrySpec",
    "SpecModel",
    "StepSpec",
    "TurnSpec",
    "check_estimates",
]

#: The control step that calls a node's failure handlers, once the node has failed for good.
HANDLERS: Final = "failed"

#: Every control step that calls functions of the user; what a kind of node has none of is as another of them.
CONTROLS: Final = (
    "enter",
    "choose",
    "pick",
    "items",
    "next",
    "output",
    "merge",
    "gather",
    "result",
    "lookup",
    "store",
    HANDLERS,
)

#: Names of pipelines, steps and queues: they stand in keys, task names and metrics.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:<>\-]{0,119}$")]


class SpecModel(BaseModel):
    """What all parts of a spec have in common: data that does not change, and nothing that is not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeModel(SpecModel, ABC):
    """A node of a spec's tree."""

    @abstractmethod
    def child(self, index: int) -> NodeModel:
        """The child that an index of a path names. Raises `IndexError` if there is none."""

    @abstractmethod
    def parts(self) -> tuple[NodeModel, ...]:
        """The nodes that it holds, once each, in declared order."""

    def steps(self) -> list[StepSpec]:
        """Every step of a function in it, once, in declared order."""
        return [step for part in self.parts() for step in part.steps()]

    def with_steps(self, change: Callable[[StepSpec], StepSpec]) -> Self:
        """The node with every step in it changed."""
        changed: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, NodeModel):
                changed[name] = value.with_steps(change)
            elif isinstance(value, tuple) and any(isinstance(part, NodeModel) for part in value):
                changed[name] = tuple(part.with_steps(change) for part in value)
        return self.model_copy(update=changed)


class NamedNode(NodeModel):
    """A node that people call by a name: all but sequences."""

    name: Name
    failure_handlers: tuple[str, ...] = Field((), description="functions that are called when it has failed for good")

    def roles(self, control: str) -> dict[str, str]:
        """The user's functions that a control step calls: references by role."""
        if control == HANDLERS:
            return {f"handler{number}": reference for number, reference in enumerate(self.failure_handlers, 1)}
        return self.own_roles(control)

    def own_roles(self, control: str) -> dict[str, str]:
        """The same, of the control steps of its kind alone."""
        return {}


class _Leaf(NamedNode):
    """A node that holds no other."""

    def child(self, index: int) -> NoReturn:
        """See `NodeModel.child`: there is none."""
        raise IndexError(index)

    def parts(self) -> tuple[()]:
        """See `NodeModel.parts`: none."""
        return ()


class RetrySpec(SpecModel):
    """When a failed attempt is followed by another. Delays double from `base_ms` to `most_ms`, with full jitter if asked."""

    retries: int = Field(1, ge=0, description="attempts after the first")
    base_ms: int = Field(0, ge=0, description="delay before the first retry; 0 retries at once")
    most_ms: int = Field(60_000, ge=0)
    jitter: bool = True
    never: tuple[str, ...] = Field((), description="names of exception classes that are not retried")


class TurnSpec(SpecModel):
    """What a step that is one turn of a longer work keeps between its turns."""

    history_max_tokens: int = Field(128_000, gt=0, description="of earlier turns that an agent is given, about")
    blob_threshold_bytes: int = Field(20_000, gt=0, description="of JSON; what is larger is kept beside the context")
    enforce_idempotency: bool = Field(False, description="whether resources carry the turn's idempotency key")
    fingerprint: Literal["strict", "compat"] = Field("strict", description="what has to stay the same between turns")


class StepSpec(_Leaf):
    """A leaf: one queued task."""

    kind: Literal["step"] = "step"
    function: str = Field(description="module:qualname, or a registered name")
    queue: Name = DEFAULT_QUEUE
    retry: RetrySpec = RetrySpec()
    timeout_ms: int | None = Field(None, gt=0, description="per attempt; None: the lease's longest")
    estimate: dict[str, int] = Field(default_factory=dict, description="upper bound of an attempt's use, by meter")
    estimate_quantile: float | None = Field(
        None, gt=0, le=1, description="of what its last attempts used, learned; None: as estimated"
    )
    unbilled: bool = Field(False, description="it calls nothing that costs: adapters and validation")
    usage_limits: dict[str, int] = Field(default_factory=dict, description="most of all attempts together, by meter")
    accounts: tuple[str, ...] = Field((), description="named accounts that pay for it, besides its run's")
    is_async: bool = True
    streams: bool = Field(False, description="its chunks are shown while it runs, and its output is made of them")
    settings: dict[str, float] = Field(default_factory=dict, description="of the model: temperature, top_k, top_p")
    template: Any = Field(None, description="the input instead of the step before's output; may hold {{ }} templates")
    reads: tuple[str, ...] = Field((), description="earlier steps whose outputs its template reads")
    uses_context: bool = False
    input_keys: tuple[str, ...] = Field((), description="places that have to be in the context before it")
    output_keys: tuple[str, ...] = Field((), description="places that have to be in the context after it")
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
    turn: TurnSpec | None = Field(None, description="one turn of a granular step")
    fallback: StepSpec | None = Field(None, description="runs once on the same input when every attempt has failed")

    def steps(self) -> list[StepSpec]:
        """See `NodeModel.steps`: itself."""
        return [self]

    def with_steps(self, change: Callable[[StepSpec], StepSpec]) -> Self:
        """See `NodeModel.with_steps`. Its fallback is left to whoever changes it."""
        return change(self)  # type: ignore[return-value]  # a step of a step

    def chain(self) -> list[StepSpec]:
        """The step, what it falls back on, and so on."""
        return [self, *(() if self.fallback is None else self.fallback.chain())]

    @property
    def wants_context(self) -> bool:
        """Whether an attempt needs the context, to read or to write."""
        kept = self.persist_feedback_to or self.persist_validation_to
        keyed = bool(self.input_keys or self.output_keys)
        return self.uses_context or self.updates_context or self.sink_to is not None or kept is not None or keyed

    @property
    def wanted(self) -> str:
        """What a worker must have to run it, as messages say it: its function, and those that must hold after it."""
        return " ".join((self.function, *self.invariant_functions))

    def with_invariants(self, rules: tuple[str, ...], functions: tuple[str, ...]) -> StepSpec:
        """The step under the invariants of a pipeline that it is part of."""
        changes: dict[str, Any] = {
            "invariants": (*self.invariants, *rules),
            "invariant_functions": (*self.invariant_functions, *functions),
            "uses_context": True,
            "fallback": None if self.fallback is None else self.fallback.with_invariants(rules, functions),
        }
        return self.model_copy(update=changes)


class HitlSpec(_Leaf):
    """A leaf that asks a human: a worker renders the question, nobody is held while it waits, and the answer is its output."""

    kind: Literal["hitl"] = "hitl"
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


def check_estimates(steps: Iterable[StepSpec], limits: Iterable[str]) -> None:
    """Refuse steps, and what they fall back on, that have no estimate of a meter that is limited.

    Args:
        limits: Meters that their run limits; those that a step limits itself count for it as well.

    Raises:
        ConfigurationError: Names each of them, and what it lacks.
    """
    lacking: dict[str, list[str]] = {}
    for step in (link for first in steps for link in first.chain()):
        unknown = {*limits, *step.usage_limits} - step.estimate.keys()
        if unknown and not step.unbilled:
            lacking[step.name] = sorted(unknown)
    if lacking:
        told = ", ".join(f"'{name}' ({', '.join(meters)})" for name, meters in lacking.items())
        raise ConfigurationError(
            f"Steps have no estimate under a limit: {told}.",
            suggestion="Declare expected_cost_usd, expected_tokens or expected_meters, 0 for what a step does not use or "
            "reserves itself; or do not ask for strict_estimates.",
            code="estimates_missing",
            lacking=lacking,
        )
