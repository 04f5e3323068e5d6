"""Background nodes: their body runs beside what follows them. The run ends when its background work has ended as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flujo_client.execution.categories import error_category
from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, node_of, parent_of
from flujo_client.protocol.messages import LAUNCH, Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.quota import add_amounts, parse_amounts
from flujo_client.protocol.spec import BackgroundSpec

__all__ = ["CANCELLED", "BackgroundKind", "cancel_body", "is_cancelled", "settle"]

#: What `background_error` says of a body that somebody cancelled.
CANCELLED: Final = "cancelled"


class BackgroundKind(Composite):
    """See `NodeKind`. The body has a copy of the context, which ends with it, and spends from the accounts around the node."""

    isolates = True

    def enter(self, draft: Draft, path: str, node: BackgroundSpec) -> None:
        """Tell followers that the body begins."""
        if draft.needed(path).status is NodeStatus.WAITING and not draft.missing:
            draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
            draft.dispatch_control(path, LAUNCH, value={})

    def control_succeeded(self, draft: Draft, path: str, node: BackgroundSpec, event: Event) -> None:
        """Start the body, and what follows the node."""
        state = draft.state(path)
        if state.told is None:
            task_id = event.data["verdict"]["task_id"]
            told = {
                "feedback": f"Launched in background (task_id={task_id})",
                "metadata": {"background_task_id": task_id},
            }
            draft.update(path, told=told)
            draft.begin_background()
        body = child_of(path, 0)
        if not draft.ended_before(body):
            draft.enter(body)
        if not draft.incomplete:
            draft.complete(path)

    def child_succeeded(self, draft: Draft, path: str, node: BackgroundSpec, index: int) -> None:
        """The body is done."""
        if not draft.ended_before(child_of(path, index)):
            draft.end_background()

    def child_failed(self, draft: Draft, path: str, node: BackgroundSpec, index: int, cause: str) -> None:
        """The body's failure shows in the node's result; the run goes on."""
        if not draft.ended_before(child_of(path, index)):
            error = draft.state(cause).error or {"message": "failed", "type": ""}
            _tell_error(draft, path, error["message"], error_category(error["type"]))
            draft.end_background()

    def output(self, graph: RunGraph, path: str, node: BackgroundSpec) -> Expression:
        """What the node got."""
        return graph.input(path)

    def producer(self, graph: RunGraph, path: str, node: BackgroundSpec) -> Producer:
        """What made the node's input."""
        return graph.producer_before(path)

    def children(self, graph: RunGraph, path: str, node: BackgroundSpec) -> Iterator[tuple[int, str | None]]:
        """The body."""
        yield 0, node.name

    def result(self, graph: RunGraph, path: str, node: BackgroundSpec, parts: list[NodeResult]) -> NodeResult:
        """That it was launched, and what became of it."""
        told = graph.state(path).told or {}
        result = super().result(graph, path, node, parts)
        return {
            **result,
            "feedback": told.get("feedback") or self.control_story(graph, path, LAUNCH) or result["feedback"],
            "step_history": [step for part in parts for step in part["step_history"]],
            "metadata_": told.get("metadata", {}),
        }


def cancel_body(draft: Draft, path: str) -> None:
    """Somebody cancels the body of a background node: nothing of it starts any more, and nobody waits for it. What of it runs
    at this moment ends as it ends, is paid for, and changes nothing."""
    body = child_of(path, 0)
    state = draft.needed(body)
    _let_go(draft, body)
    if draft.missing or state.status.ended:
        return
    error = {"type": "RunCancelledError", "message": CANCELLED, "data": {"path": path}}
    draft.update(body, status=NodeStatus.FAILED, cancelled=1, error=error)
    draft.update("root", cancelled=draft.state("root").cancelled + 1)
    _tell_error(draft, path, CANCELLED, "control_flow")
    draft.end_background()


def is_cancelled(draft: Draft, path: str) -> bool:
    """Whether a path lies in a body that was cancelled."""
    at = node_of(path)
    while at != "root":
        if draft.state(at).cancelled:
            return True
        at = parent_of(at)[0]
    return False


def settle(draft: Draft, event: Event) -> None:
    """Something happened in a body that was cancelled: what it used is noted, nothing follows from it."""
    node = draft.state(event.path)
    if node.attempt == event.attempt and (node.status.under_way or node.status is NodeStatus.PAUSED):
        usage = add_amounts(node.usage, parse_amounts(event.fields.get("usage", "")))
        draft.update(event.path, status=NodeStatus.FAILED, usage=usage)


def _let_go(draft: Draft, path: str) -> None:
    """What waits for budget or for an answer in a body waits no more, so that the run is not held to wait with it."""
    node, state = draft.node(path), draft.needed(path)
    if draft.missing:
        return
    if state.status in (NodeStatus.BLOCKED, NodeStatus.PAUSED):
        draft.update(path, status=NodeStatus.FAILED)
    for index, _ in draft.kind(path).children(draft, path, node):
        _let_go(draft, child_of(path, index))


def _tell_error(draft: Draft, path: str, words: str, category: str) -> None:
    told = draft.state(path).told or {}
    error = {"background_error": words, "background_error_category": category}
    metadata = {**told.get("metadata", {}), **error}
    draft.update(path, told={**told, "metadata": metadata})
