"""The frozen models that `advance()` reads and writes: a run as seen by its manager, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.quota import Amounts
from flujo_client.protocol.replies import Alarm, BranchEnd, Dispatch, Split
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import PipelineSpec

__all__ = ["FRESH", "Decision", "LimitWarning", "NodeState", "NodeStatus", "PauseState", "RunView"]


class NodeStatus(StrEnum):
    """Where a node of a run stands. Every change has its arrow in docs/state_machine.md."""

    WAITING = "waiting"  # not reached yet
    DISPATCHED = "dispatched"  # an attempt is journalled; a worker may have leased it
    BLOCKED = "blocked"  # its attempt waits for budget; no worker holds it
    RUNNING = "running"  # a composite whose children are under way, or a node whose failure handlers are
    PAUSED = "paused"  # waits for an answer; no worker is held
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def succeeded(self) -> bool:
        """Whether the node has succeeded."""
        return self is NodeStatus.SUCCEEDED

    @property
    def under_way(self) -> bool:
        """Whether an attempt is dispatched, or waits for budget, which others hold."""
        return self in (NodeStatus.DISPATCHED, NodeStatus.BLOCKED)

    @property
    def ended(self) -> bool:
        """Whether the node has ended, either way."""
        return self in (NodeStatus.SUCCEEDED, NodeStatus.FAILED)


class PauseState(BaseModel):
    """A question that a node asks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    asked_ms: int = Field(description="when the pause was committed, Redis ms")


class NodeState(BaseModel):
    """What a run remembers of one node. A node that is not stored is WAITING."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: NodeStatus = NodeStatus.WAITING
    attempt: int = Field(0, description="attempts dispatched")
    failures: int = Field(0, description="attempts that failed")
    losses: int = Field(0, description="attempts whose worker died or hung")
    fallback: int = Field(0, description="how far down the chain of fallbacks its attempts are")
    original_error: dict[str, Any] | None = Field(None, description="why the step itself failed, once it fell back")
    moves: int = Field(0, description="attempts handed over by a worker that was told to stop")
    usage: dict[str, int] = Field(default_factory=dict, description="of all its attempts, by meter")
    latency_ms: int = Field(0, description="of the last attempt that ended")
    error: dict[str, Any] | None = None
    dead: bool = Field(False, description="given up after its worker died; waits until somebody revives or drops it")
    pause: PauseState | None = Field(None, description="what it asked, once it has paused")
    answer: Literal["given", "expired"] | None = Field(
        None, description="whether somebody has answered, perhaps ahead of the pause, or its time was up"
    )
    reminders: int = Field(0, description="how often it was remembered while it waited")
    answering: bool = Field(False, description="its attempt applies the answer")
    active: int = Field(0, description="root: nodes of the run with an attempt under way")
    paused: int = Field(0, description="root: nodes of the run that wait for an answer")
    failing: str | None = Field(None, description="path of what failed it, once its failure handlers are called")
    keeps_output: bool = Field(False, description="step: the last attempt failed, and shows its output all the same")
    background: int = Field(0, description="root: bodies in the background that have not ended")
    cancelled: int = Field(0, description="root: bodies in the background that were cancelled; of such a body, 1")
    opened: int = Field(0, description="parallel: branches entered; loop: iterations begun")
    split: bool = Field(False, description="parallel, map: the budget is shared out")
    pending: int = Field(0, description="parallel, map: children not ended")
    failed: dict[int, str] = Field(default_factory=dict, description="parallel, map: path of the failure, by child")
    items: int | None = Field(None, description="map: how many items there are; None until they are listed")
    failed_items: int = Field(0, description="map: items that failed; the first of them are in `failed`")
    picked: tuple[int, ...] | None = Field(None, description="parallel: branches that run; None for all of them")
    changed: bool = Field(False, description="parallel, map: some child changed its context")
    told: dict[str, Any] | None = Field(None, description="composite: feedback and metadata from a function of its own")
    left: dict[int, str] = Field(
        default_factory=dict, description="state machine: steps that states were left at, once answered"
    )
    visited: tuple[int, ...] = Field((), description="state machine: indices of the states entered, in order")
    broken: bool = Field(False, description="loop: a step of its body was given up, its worker died too often")
    exhausted: bool = Field(False, description="loop: left because it had reached its most iterations")
    chosen: int | None = Field(None, description="conditional: index of the branch that runs")
    key: str | int | float | bool | None = Field(None, description="conditional: what the condition returned")
    verdict: dict[str, Any] | None = Field(
        None, description="control step: what it decided; a fork decides by it again"
    )
    wrote: tuple[str, ...] = Field((), description="payloads of contexts that its attempts committed")
    anew: bool = Field(False, description="the first of them is a whole context, and no change")
    output: str | dict[str, Any] | None = Field(
        None,
        description="composite: the payloads that make its output, once it has succeeded; for whoever reads it by name",
    )
    made_by: str = Field("", description="composite: the function by which a worker knows the output's type")
    context: tuple[str, ...] = Field(
        (), description="root, composites and their children: payloads of their context, oldest first"
    )

    @classmethod
    def parse(cls, text: bytes | str) -> NodeState:
        """Read a node as it is stored.

        Raises:
            SchemaMismatchError: A newer release wrote it.
        """
        try:
            return cls.model_validate_json(text)
        except PydanticValidationError as error:
            raise SchemaMismatchError(
                f"The state of a node cannot be read: {error.errors(include_url=False)[0]['msg']}.",
                suggestion="A newer release wrote it: upgrade this process before it serves the run; the run waits.",
            ) from error


#: Of a node that has not been reached.
FRESH: Final = NodeState()


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as far as one batch of events concerns it: the nodes on their paths, and what their accounts have free.

    Attributes:
        free: By account; None if that was not read.
    """

    run_id: str
    spec: PipelineSpec
    status: RunStatus
    nodes: Mapping[str, NodeState]
    limits: Amounts
    accounts: tuple[str, ...] = ()
    owner: str = POOL
    free: Mapping[str, Amounts] | None = field(default_factory=dict)
    has_context: bool = False
    traceparent: str = ""
    learned: Mapping[str, Amounts] = field(default_factory=dict)  # estimates of steps that ask for it, by label
    max_deliveries: int = 3


@dataclass(frozen=True, slots=True)
class LimitWarning:
    """The run has used 80 % of a limit. `path` is the step whose end told."""

    path: str
    meter: str
    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What advance.lua stores, and the dispatches to publish after it.

    Attributes:
        applied: Id of the last event that is fully applied; "" for none.
        nodes: The nodes that change.
        missing: Nodes that must be in the view to decide; nothing else in the decision is to be applied then.
        warnings: Of what this decision says that limits are near.
        needs_free: What accounts have free must be in the view to decide; nothing else is to be applied then either.
        woken: Attempts that waited for budget, which a script has journalled anew: to be published.
        incomplete: More is to be dispatched for the event after `applied`; advance again.
    """

    applied: str
    status: RunStatus
    error: dict[str, Any] | None = None
    nodes: Mapping[str, NodeState] = field(default_factory=dict)
    splits: tuple[Split, ...] = ()
    branch_ends: tuple[BranchEnd, ...] = ()
    dispatches: tuple[Dispatch, ...] = ()
    woken: tuple[Dispatch, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    warnings: tuple[LimitWarning, ...] = ()
    missing: tuple[str, ...] = ()
    needs_free: bool = False
    incomplete: bool = False
