"""Background nodes: their body runs beside what follows them. The run ends when its background work has ended as well."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of
from flujo_client.protocol.messages import LAUNCH, Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import BackgroundSpec

__all__ = ["BackgroundKind"]


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
        state = draft.state(path)
        if not draft.ended_before(child_of(path, index)):
            metadata = {"background_error": (draft.state(cause).error or {}).get("message", "failed")}
            told = state.told or {}
            draft.update(path, told={**told, "metadata": {**told.get("metadata", {}), **metadata}})
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
