"""Conditionals: a control step asks the condition, and the branch that it names runs."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import ConditionalSpec

__all__ = ["ConditionalKind"]


class ConditionalKind(Composite):
    """See `NodeKind`."""

    isolates = True

    def enter(self, draft: Draft, path: str, node: ConditionalSpec) -> None:
        """Ask the condition."""
        if draft.needed(path).status is not NodeStatus.WAITING or draft.missing:
            return
        draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
        arguments = {"keys": node.keys, "default": len(node.branches) > len(node.keys)}
        draft.dispatch_control(path, "choose", value=draft.input(path), arguments=arguments)

    def child_succeeded(self, draft: Draft, path: str, node: ConditionalSpec, index: int) -> None:
        """Map the output, if there is something to map it; then the node is done."""
        child = child_of(path, index)
        draft.hoist_context(child)
        if node.output_mapper is None:
            draft.complete(path)
            return
        draft.dispatch_control(
            path,
            "output",
            value=draft.output(child),
            producer=draft.producer(child),
            arguments={"key": draft.needed(path).key},
        )

    def control_succeeded(self, draft: Draft, path: str, node: ConditionalSpec, event: Event) -> None:
        """Start the branch that was chosen; after the output's mapper, the node is done."""
        if control_of(event.path)[0] == "output":
            draft.complete(path)
            return
        verdict = event.data["verdict"]
        draft.update(path, chosen=verdict["branch"], key=verdict["key"], context=draft.context(path))
        draft.enter(child_of(path, verdict["branch"]))

    def child_input(self, graph: RunGraph, path: str, node: ConditionalSpec, index: int) -> Expression:
        """What the node got, or what the input mapper made of it."""
        return graph.input(path) if node.input_mapper is None else f"out:{control_path(path, 'choose')}"

    def output(self, graph: RunGraph, path: str, node: ConditionalSpec) -> Expression:
        """That of the branch, or what the output mapper made of it."""
        if node.output_mapper is not None:
            return f"out:{control_path(path, 'output')}"
        return graph.output(child_of(path, graph.needed(path).chosen or 0))

    def producer(self, graph: RunGraph, path: str, node: ConditionalSpec) -> Producer:
        """The branch's last step, if its output is not mapped."""
        chosen = graph.needed(path).chosen
        if node.output_mapper is not None or chosen is None:
            return Producer(node.name, "Any", "")
        return graph.producer(child_of(path, chosen))

    def children(self, graph: RunGraph, path: str, node: ConditionalSpec) -> Iterator[tuple[int, str | None]]:
        """The branch that was chosen."""
        state = graph.state(path)
        if state.chosen is not None:
            yield state.chosen, str(state.key)

    def result(self, graph: RunGraph, path: str, node: ConditionalSpec, parts: list[NodeResult]) -> NodeResult:
        """The branch's result under the node's name."""
        state, result = graph.state(path), super().result(graph, path, node, parts)
        story = self.control_story(graph, path, "choose") or self.control_story(graph, path, "output")
        if story is None and not state.status.succeeded and state.chosen is not None:
            story = f"Failure in branch '{state.key}': {result['feedback']}"
        steps = [step for part in parts for step in part["step_history"]]
        return {**result, "feedback": story, "step_history": steps, "metadata_": {"executed_branch_key": state.key}}
