"""What of a run another one can use that begins in its middle: its committed outcomes, advanced again over a pipeline. Pure.

Nothing is copied that does not follow: the outcomes are given to `advance()`, all but those of the node to begin with, so what
depends on that one is never reached, and what does not, before it or beside it, stands as it stood.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from flujo_client.execution.advance import advance
from flujo_client.execution.decision import FRESH, Decision, NodeState, NodeStatus, RunView
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.join import Join
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import child_of, control_of, control_path, lineage_of, node_of, order_of, parent_of
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.messages import LAUNCH, Event, EventKind
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import MachineSpec, NodeSpec, PipelineSpec

__all__ = ["Reuse", "composites_around", "reuse_before"]

#: Control steps that a composite begins with.
_ENTRIES: Final = frozenset({"enter", "choose", "items", "lookup", LAUNCH})

#: Control steps whose outcome is a verdict.
_DECIDING: Final = frozenset({"next", "choose", "pick", "items", "paused", "lookup"})

#: What a step that was given up without words failed with.
_GIVEN_UP: Final = {"type": "RunCancelledError", "message": "cancelled", "data": {}}


@dataclass(frozen=True, slots=True)
class Reuse:
    """What can be used again.

    Attributes:
        nodes: As they are when the new run begins; nothing of it is under way.
        events: What happens to it first, as kind, path and attempt: one for each place at which it goes on.
        open_places: Where those are: nodes and control steps that are reached and whose outcome is not used.
        used: Paths of the steps and control steps whose outcomes are used.
        reached: Whether the node to begin with was.
    """

    nodes: dict[str, NodeState]
    events: list[tuple[EventKind, str, int]]
    open_places: list[str]
    used: frozenset[str]
    reached: bool


def reuse_before(
    old: Mapping[str, NodeState],
    spec: PipelineSpec,
    start: str,
    *,
    has_context: bool,
    check: Callable[[str], None],
) -> Reuse:
    """Advance again what a run has committed, but for one node and what depends on it.

    Where something failed and that has not been dealt with (its branches are still open, or the run ended), it runs again too.

    Args:
        old: The run's nodes.
        spec: Of the new run.
        start: Path of the node to begin with, of any kind but a sequence.
        has_context: Whether the run was given a context.
        check: Raises if the node at a path, or one around it, is not what it was; called with every outcome that is to be used.
    """
    left_out = {start}
    while True:
        replay = _Replay(old, spec, left_out, has_context, check)
        replay.run()
        failures = replay.open_failures() - left_out
        if not failures:
            return replay.reuse(start)
        left_out |= failures


class _Replay:
    def __init__(
        self,
        old: Mapping[str, NodeState],
        spec: PipelineSpec,
        left_out: set[str],
        has_context: bool,
        check: Callable[[str], None],
    ) -> None:
        self._old = old
        self._spec = spec
        self._left_out = left_out
        self._has_context = has_context
        self._check = check
        self._status = RunStatus.RUNNING
        self._ready: deque[str] = deque()
        self._open: list[str] = []
        self._failed: list[str] = []
        self._begun = {
            place for path, node in old.items() if node.status is not NodeStatus.WAITING for place in lineage_of(path)
        }
        self.nodes: dict[str, NodeState] = {}
        self.used: set[str] = set()

    def run(self) -> None:
        """Use every outcome that there is to use."""
        self._happen(Event(id="0-1", kind=EventKind.CREATED, path="root"))
        while self._ready or self._open_what_had_begun():
            while self._ready:
                self._use(self._ready.popleft())

    def _use(self, path: str) -> None:
        """Give a dispatched step the outcome that it has, or leave it open."""
        old = self._old.get(path, FRESH)
        if not old.status.ended or any(place in self._left_out for place in lineage_of(path)):
            self._open.append(path)
            return
        self._check(node_of(path))
        if old.status.succeeded and old.verdict is None and control_of(path)[0] in _DECIDING:
            raise SchemaMismatchError(
                f"What step {node_of(path)} decided at {path} is not recorded: an older release began the run.",
                suggestion="Fork from that step, or an earlier one.",
            )
        self.used.add(path)
        if old.wrote:
            graph = RunGraph(self._spec, KINDS, self._state)
            scope = graph.written_scope(path)
            context = (() if old.anew else graph.context(path)) + old.wrote
            self.nodes[scope] = self._state(scope).model_copy(update={"context": context})
        failed = old.status is NodeStatus.FAILED
        dispatched = {
            "status": NodeStatus.DISPATCHED,
            "failures": old.failures - failed,
            "context": self._state(path).context,
        }
        self.nodes[path] = old.model_copy(update=dispatched)
        data = {"latency_ms": old.latency_ms, "verdict": old.verdict}
        if failed:
            self._failed.append(path)
            data |= {"error": old.error or _GIVEN_UP, "retryable": False, "keeps_output": old.keeps_output}
        fields = {"attempt": str(old.attempt), "data": json_bytes(data).decode()}
        self._happen(
            Event(id="0-1", kind=EventKind.FAILED if failed else EventKind.SUCCEEDED, path=path, fields=fields)
        )

    def _happen(self, event: Event) -> None:
        incomplete = True
        while incomplete:
            decision = advance(self._view(), [event])
            while decision.missing:
                self.nodes.update({path: FRESH for path in decision.missing})
                decision = advance(self._view(), [event])
            self._apply(decision)
            incomplete = decision.incomplete

    def _apply(self, decision: Decision) -> None:
        self.nodes.update(decision.nodes)
        self._status = decision.status
        self._ready.extend(dispatch.path for dispatch in decision.dispatches)

    def _open_what_had_begun(self) -> bool:
        """Open children that had begun in the run but wait here, since others hold their places; whether there are any."""
        for path, node in list(self.nodes.items()):
            if node.split and not node.status.ended and path in self._begun:
                while self._opens_next(path):
                    pass
        return bool(self._ready)

    def _opens_next(self, path: str) -> bool:
        spec, kind, state = self._spec.node(path), KINDS[self._spec.node(path).kind], self.nodes[path]
        assert isinstance(kind, Join)
        draft = Draft(self._view(), KINDS)
        order = kind.order(draft, path, spec)
        if state.opened >= len(order) or child_of(path, order[state.opened]) not in self._begun:
            return False
        draft.opening.add(path)
        draft.enter(child_of(path, order[state.opened]))
        while draft.missing:
            self.nodes.update({missing: FRESH for missing in draft.missing})
            draft = Draft(self._view(), KINDS)
            draft.opening.add(path)
            draft.enter(child_of(path, order[state.opened]))
        draft.update(path, opened=state.opened + 1)
        self._apply(draft.decision())
        return True

    def _view(self) -> RunView:
        return RunView(
            run_id="reused",
            spec=self._spec,
            status=self._status,
            nodes=self.nodes,
            limits={},
            has_context=self._has_context,
        )

    def _state(self, path: str) -> NodeState:
        return self.nodes.get(path, FRESH)

    def open_failures(self) -> set[str]:
        """Where something failed that nobody has dealt with yet: it decides nothing, and is to run again."""
        found = {path for path in self._failed if self._is_open(node_of(path))}
        for node in self.nodes.values():
            if node.split and not node.status.ended:
                found |= set(node.failed.values())
        return found

    def _is_open(self, path: str) -> bool:
        """Whether the failure of a step is that of everything around it, up to something that is still under way, or the run."""
        child, above = path, path
        while self._state(above).status is NodeStatus.FAILED:
            if above == "root":
                return True
            child, above = above, parent_of(above)[0]
        state = self._state(above)
        went_on = isinstance(self._spec.node(above), MachineSpec) and state.visited[-1] != parent_of(child)[1]
        return not state.status.ended and not went_on

    def reuse(self, start: str) -> Reuse:
        """The nodes without what is under way, and what happens instead."""
        reached = self._state(start).status is not NodeStatus.WAITING
        entries = {(EventKind.CREATED, start)}
        nodes = dict(self.nodes)
        picked = self._state(start).picked
        for path in [path for path in nodes if start in lineage_of(path)]:
            del nodes[path]
        if picked is not None:
            nodes[start] = NodeState(picked=picked)
        for path in self._open:
            if start in lineage_of(path):
                continue
            nodes.pop(path, None)
            entries.add(self._entry(path))
            if control_of(path)[0] in _ENTRIES:
                nodes[node_of(path)] = NodeState(picked=self._state(node_of(path)).picked)
        nodes["root"] = self._state("root").model_copy(update={"active": 0, "paused": 0})
        return Reuse(
            nodes={path: node for path, node in nodes.items() if node != FRESH},
            events=[
                (kind, path, self._state(path).attempt if kind is EventKind.SUCCEEDED else 0)
                for kind, path in sorted(entries, key=lambda entry: order_of(entry[1]))
            ],
            open_places=sorted(self._open, key=order_of),
            used=frozenset(self.used),
            reached=reached,
        )

    def _entry(self, path: str) -> tuple[EventKind, str]:
        """What makes a step that is open be dispatched: its node begins, or what it followed has succeeded."""
        composite, (control, number) = node_of(path), control_of(path)
        state = self._state(composite)
        if not control or control in _ENTRIES or (state.split and number == 0):
            return EventKind.CREATED, composite
        if control == "gather":
            return EventKind.SUCCEEDED, control_path(composite, control, number - 1)
        if control == "paused":
            return EventKind.SUCCEEDED, state.left[number]
        return EventKind.SUCCEEDED, child_of(composite, state.chosen or 0 if control == "output" else number)


def composites_around(spec: PipelineSpec, path: str) -> Iterator[tuple[str, NodeSpec]]:
    """The nodes above a path that are no sequences, outermost first."""
    for place in reversed(lineage_of(node_of(path))[1:]):
        node = spec.node(place)
        if node.kind != "sequence":
            yield place, node
