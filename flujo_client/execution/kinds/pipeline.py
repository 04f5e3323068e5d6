"""Sub-pipelines: a pipeline as one node, on the context around it or on one that a control step makes."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.execution.references import result_with_references
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import SubPipelineSpec

__all__ = ["SubPipelineKind"]


class SubPipelineKind(Composite):
    """See `NodeKind`."""

    isolates = True
    opens = "enter"

    def enter(self, draft: Draft, path: str, node: SubPipelineSpec) -> None:
        """Make the body's context, if it is not just the one around it; then start the body."""
        if draft.needed(path).status is not NodeStatus.WAITING or draft.missing:
            return
        draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
        if node.opens_context:
            arguments = {"inherit": node.inherit_context, "data": node.context_data}
            draft.dispatch_control(path, "enter", value={}, arguments=arguments)
        else:
            _start(draft, path)

    def child_succeeded(self, draft: Draft, path: str, node: SubPipelineSpec, index: int) -> None:
        """Give the body's context back, and make its result if that is the output."""
        body = child_of(path, index)
        if not node.gives_result:
            _give_back(draft, path, node)
            draft.complete(path)
            return
        result = result_with_references(draft, body)
        if draft.missing:
            return
        _give_back(draft, path, node)
        draft.dispatch_control(
            path,
            "result",
            value=result.expression,
            references=True,
            branches={"body": draft.state(body).context or draft.state(path).context},
            arguments={"history": result.json["step_history"]},
        )

    def control_succeeded(self, draft: Draft, path: str, node: SubPipelineSpec, event: Event) -> None:
        """Start the body; after its result, the node is done."""
        if control_of(event.path)[0] == "enter":
            _start(draft, path)
        else:
            draft.complete(path)

    def output(self, graph: RunGraph, path: str, node: SubPipelineSpec) -> Expression:
        """That of the body, or its result."""
        return f"out:{control_path(path, 'result')}" if node.gives_result else graph.output(child_of(path, 0))

    def producer(self, graph: RunGraph, path: str, node: SubPipelineSpec) -> Producer:
        """The body's last step, unless its result is the output."""
        return Producer(node.name, "PipelineResult", "") if node.gives_result else graph.producer(child_of(path, 0))

    def result(self, graph: RunGraph, path: str, node: SubPipelineSpec, parts: list[NodeResult]) -> NodeResult:
        """One result with the history of the body's steps."""
        result = super().result(graph, path, node, parts)
        story = self.control_story(graph, path, "enter") or self.control_story(graph, path, "result")
        steps = [step for part in parts for step in part["step_history"]]
        return {**result, "feedback": story or result["feedback"], "step_history": steps}

    def children(self, graph: RunGraph, path: str, node: SubPipelineSpec) -> Iterator[tuple[int, str | None]]:
        """The body, which is called as the node is."""
        yield 0, node.name


def _start(draft: Draft, path: str) -> None:
    draft.enter(child_of(path, 0))


def _give_back(draft: Draft, path: str, node: SubPipelineSpec) -> None:
    if node.inherit_context:
        draft.hoist_context(child_of(path, 0))
