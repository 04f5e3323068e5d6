"""Dynamic parallel nodes: a router step names branches, and those run as a parallel node."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import RouterSpec

__all__ = ["RouterKind"]

#: The children: the router's step, and the parallel node.
_ROUTER, _PARALLEL = 0, 1


class RouterKind(Composite):
    """See `NodeKind`."""

    def enter(self, draft: Draft, path: str, node: RouterSpec) -> None:
        """Ask the router; or go on starting what it named."""
        state = draft.needed(path)
        if draft.missing:
            return
        if state.status is NodeStatus.WAITING:
            draft.update(path, status=NodeStatus.RUNNING)
            draft.enter(child_of(path, _ROUTER))
        elif state.told is not None:
            draft.enter(child_of(path, _PARALLEL))

    def child_succeeded(self, draft: Draft, path: str, node: RouterSpec, index: int) -> None:
        """Find the branches that the router named; after they have ended, the node is done."""
        if index == _PARALLEL:
            draft.complete(path)
            return
        child = child_of(path, index)
        arguments = {"names": node.parallel.names}
        draft.dispatch_control(
            path, "pick", value=draft.output(child), producer=draft.producer(child), arguments=arguments
        )

    def control_succeeded(self, draft: Draft, path: str, node: RouterSpec, event: Event) -> None:
        """Start the branches that were named."""
        names = event.data["verdict"]["names"]
        places = tuple(index for index, name in enumerate(node.parallel.names) if name in names)
        parallel = child_of(path, _PARALLEL)
        if draft.needed(parallel).status is NodeStatus.WAITING and not draft.missing:
            draft.update(parallel, picked=places)
        draft.update(path, told={"metadata": {"executed_branches": names}})
        draft.enter(parallel)

    def output(self, graph: RunGraph, path: str, node: RouterSpec) -> Expression:
        """That of the parallel node."""
        return graph.output(child_of(path, _PARALLEL))

    def producer(self, graph: RunGraph, path: str, node: RouterSpec) -> Producer:
        """The parallel node."""
        return graph.producer(child_of(path, _PARALLEL))

    def children(self, graph: RunGraph, path: str, node: RouterSpec) -> Iterator[tuple[int, str | None]]:
        """The router's step, and the branches once they are known."""
        yield _ROUTER, f"{node.name}_router"
        if graph.needed(path).told is not None:
            yield _PARALLEL, None

    def result(self, graph: RunGraph, path: str, node: RouterSpec, parts: list[NodeResult]) -> NodeResult:
        """The parallel node's result, with the router's step before it and its cost in it."""
        state, result = graph.state(path), super().result(graph, path, node, parts)
        steps = [step for part in parts for step in part["step_history"]]
        parallel = parts[_PARALLEL] if len(parts) > _PARALLEL else {}
        told = (state.told or {}).get("metadata", {})
        return {
            **result,
            "feedback": self.control_story(graph, path, "pick") or parallel.get("feedback") or result["feedback"],
            "step_history": steps,
            "metadata_": {**parallel.get("metadata_", {}), "executed_branches": [], **told},
        }
