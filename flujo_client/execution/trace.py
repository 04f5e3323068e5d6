"""Builds a run's trace tree from its nodes and its events: there is no second bookkeeping that could differ. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import child_of, control_of, node_of
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.quota import COST, TOKENS, parse_amounts, to_usd
from flujo_client.protocol.spec import LoopSpec, PipelineSpec, StepSpec
from flujo_client.protocol.traces import TraceEvent, TraceSpan

__all__ = ["build_trace", "traced_inputs"]

#: What a node's status is called in a trace.
_STATUS = {NodeStatus.SUCCEEDED: "completed", NodeStatus.FAILED: "failed", NodeStatus.PAUSED: "paused"}

#: Events that a trace shows with what they say.
_TOLD_WITH_FACTS = (
    EventKind.LOST,
    EventKind.BLOCKED,
    EventKind.UNBLOCKED,
    EventKind.REFUSED,
    EventKind.LIMIT_WARNING,
)


def traced_inputs(spec: PipelineSpec, nodes: Mapping[str, NodeState]) -> dict[str, Expression]:
    """The inputs that a trace shows: of every node that was entered, by path."""
    graph = RunGraph(spec, KINDS, lambda path: nodes.get(path, FRESH))
    return {path: graph.input(path) for path, _ in _entered(graph, "root")}


def build_trace(
    spec: PipelineSpec,
    record: Mapping[str, str],
    nodes: Mapping[str, NodeState],
    stored: Mapping[str, dict[str, Any]],
    events: Sequence[Event],
    inputs: Mapping[str, str],
) -> TraceSpan:
    """The trace tree of a run, ended or not.

    Args:
        record: The run's record.
        nodes: Every stored node.
        stored: What workers committed of each step beside its output, by path.
        events: All of the run's but its chunks, in order.
        inputs: Of the nodes, as text, by path; and the run's own by `root`.
    """
    graph = RunGraph(spec, KINDS, lambda path: nodes.get(path, FRESH), stored)
    return _Builder(graph, record, events, inputs).root()


class _Builder:
    def __init__(
        self, graph: RunGraph, record: Mapping[str, str], events: Sequence[Event], inputs: Mapping[str, str]
    ) -> None:
        self._graph = graph
        self._record = record
        self._inputs = inputs
        self._events: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            self._events[node_of(event.path)].append(event)

    def root(self) -> TraceSpan:
        """The span of the run."""
        record, limits = self._record, parse_amounts(self._record["limits"])
        finished_ms = record.get("finished_ms")
        attributes: dict[str, Any] = {
            "flujo.run_id": record["run_id"],
            "flujo.pipeline.name": record["pipeline"],
            "flujo.pipeline.version": self._graph.spec.pipeline_version,
            "flujo.input": self._inputs.get("root"),
        }
        if COST in limits:
            attributes["flujo.budget.initial_cost_usd"] = to_usd(limits[COST])
        if TOKENS in limits:
            attributes["flujo.budget.initial_tokens"] = limits[TOKENS]
        status = record["status"]
        return TraceSpan(
            span_id="root",
            name="pipeline_run",
            start_time=int(record["created_ms"]) / 1000,
            end_time=None if finished_ms is None else int(finished_ms) / 1000,
            status=status if status in ("running", "paused", "completed") else "failed",
            attributes=attributes | ({} if status in ("running", "paused", "completed") else {"flujo.status": status}),
            events=[_told(event, {}) for event in self._events["root"] if event.kind is EventKind.CANCELLED],
            children=[self._span(path, label, "root") for path, label in _entered_children(self._graph, "root")],
        )

    def _span(self, path: str, label: str | None, parent: str) -> TraceSpan:
        node, state = self._graph.node(path), self._graph.state(path)
        children = [self._span(child, name, path) for child, name in _entered_children(self._graph, path)]
        starts = [self._began(path), *(child.start_time for child in children)]
        ends = [self._ended(path), *(child.end_time for child in children)]
        running = not state.status.ended and any(child.end_time is None for child in children)
        return TraceSpan(
            span_id=path,
            parent_span_id=parent,
            name=label or self._graph.name(path),
            start_time=min((at for at in starts if at is not None), default=None),
            end_time=None if running else max((at for at in ends if at is not None), default=None),
            status=_status(state.status, children),
            attributes=self._attributes(path, node.kind, state),
            events=[*self._happened(path, state), *(_iterations(children) if isinstance(node, LoopSpec) else ())],
            children=children,
        )

    def _attributes(self, path: str, kind: str, state: NodeState) -> dict[str, Any]:
        found: dict[str, Any] = {
            "flujo.step.type": kind,
            "flujo.step.policy": "agent" if kind == "step" else kind,
            "step_input": self._inputs.get(path),
        }
        if kind == "step":
            found |= self._facts(path, state)
        if state.key is not None:
            found["executed_branch_key"] = state.key
        found.update(self._graph.stored(path).get("metadata_", {}))
        return found

    def _facts(self, path: str, state: NodeState) -> dict[str, Any]:
        """What is known of a step that has been dispatched."""
        found: dict[str, Any] = {"flujo.attempt_number": state.attempt}
        for event in self._events[path]:
            before = event.data.get("quota_before", {})
            if COST in before:
                found["flujo.budget.quota_before_usd"] = to_usd(before[COST])
            if TOKENS in before:
                found["flujo.budget.quota_before_tokens"] = before[TOKENS]
        if state.status.ended:
            found |= {
                "success": state.status.succeeded,
                "latency_s": state.latency_ms / 1000,
                "flujo.budget.actual_cost_usd": to_usd(state.usage.get(COST, 0)),
                "flujo.budget.actual_tokens": state.usage.get(TOKENS, 0),
                "flujo.cache.hit": bool(self._graph.stored(path).get("metadata_", {}).get("cache_hit", False)),
            }
        return found

    def _happened(self, path: str, state: NodeState) -> Iterator[TraceEvent]:
        """What stands out in a node's events: attempts that were not the last, and how they ended."""
        for event in self._events[path]:
            if control_of(event.path)[0]:
                yield _told(event, {"control": control_of(event.path)[0]}, "flujo.control")
            elif event.kind is EventKind.FAILED:
                reason = event.data.get("error", {}).get("message", "")
                facts = {"attempt": event.attempt, "reason": reason}
                yield _told(event, facts, "flujo.attempt.failed" if event.attempt == state.attempt else "flujo.retry")
            elif event.kind is EventKind.PAUSED:
                yield _told(event, {"message": event.data["verdict"]["message"]})
            elif event.kind is EventKind.ANSWERED:
                yield _told(event, {"how": event.fields["how"]}, "flujo.resumed")
            elif event.kind in _TOLD_WITH_FACTS:
                kept = ("reason", "account", "meter", "asked", "free", "used", "limit")
                facts = {name: event.fields[name] for name in kept if name in event.fields}
                yield _told(event, {"attempt": event.attempt, **facts})
        if state.original_error is not None:
            failed = [event for event in self._events[path] if event.kind is EventKind.FAILED]
            yield _told(failed[-1], {"original_error": state.original_error["message"]}, "flujo.fallback.triggered")

    def _began(self, path: str) -> float | None:
        """When the first attempt that ended was started."""
        for event in self._events[path]:
            if event.kind in (EventKind.SUCCEEDED, EventKind.FAILED, EventKind.PAUSED):
                return _at(event) - int(event.data.get("latency_ms", 0)) / 1000
        return None

    def _ended(self, path: str) -> float | None:
        if not self._graph.state(path).status.ended or not self._events[path]:
            return None
        return _at(self._events[path][-1])


def _entered(graph: RunGraph, path: str) -> Iterator[tuple[str, str | None]]:
    """Every node below a path that has been entered, with what people call it if not by its own name."""
    for child, label in _entered_children(graph, path):
        yield child, label
        yield from _entered(graph, child)


def _entered_children(graph: RunGraph, path: str) -> list[tuple[str, str | None]]:
    node = graph.node(path)
    children = ((child_of(path, index), label) for index, label in graph.kind(path).children(graph, path, node))
    return [(child, label) for child, label in children if _is_entered(graph, child)]


def _is_entered(graph: RunGraph, path: str) -> bool:
    """A sequence is entered with its first node."""
    if graph.state(path).status is not NodeStatus.WAITING:
        return True
    return not isinstance(graph.node(path), StepSpec) and bool(_entered_children(graph, path))


def _status(status: NodeStatus, children: Sequence[TraceSpan]) -> str:
    if status in _STATUS:
        return _STATUS[status]
    if status is NodeStatus.WAITING and children:  # a sequence, which has no state of its own
        return children[-1].status
    return "running"


def _iterations(children: Sequence[TraceSpan]) -> Iterator[TraceEvent]:
    for number, child in enumerate(children, 1):
        if child.start_time is not None:
            yield TraceEvent(name="loop.iteration", timestamp=child.start_time, attributes={"iteration": number})


def _told(event: Event, attributes: Mapping[str, Any], name: str | None = None) -> TraceEvent:
    return TraceEvent(name=name or f"flujo.{event.kind.value}", timestamp=_at(event), attributes=dict(attributes))


def _at(event: Event) -> float:
    """Event ids are made by Redis: they begin with its time, ms."""
    return int(event.id.partition("-")[0]) / 1000
