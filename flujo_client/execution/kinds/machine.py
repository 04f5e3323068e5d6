"""State machines: after each state a control step says which one follows."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, control_of
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import MachineSpec

__all__ = ["MachineKind"]


class MachineKind(Composite):
    """See `NodeKind`."""

    isolates = True

    def enter(self, draft: Draft, path: str, node: MachineSpec) -> None:
        """Enter the first state."""
        if draft.needed(path).status is NodeStatus.WAITING and not draft.missing:
            draft.update(path, status=NodeStatus.RUNNING)
            _hop(draft, path, node, node.start)

    def child_succeeded(self, draft: Draft, path: str, node: MachineSpec, index: int) -> None:
        """Ask where to go, unless this was an end."""
        draft.hoist_context(child_of(path, index))
        if _name(node, index) in node.ends:
            draft.complete(path)
        else:
            _ask(draft, path, node, index, "success")

    def child_failed(self, draft: Draft, path: str, node: MachineSpec, index: int, cause: str) -> None:
        """Ask where to go, if a transition is meant for failures; else the node fails."""
        if any(edge.on == "failure" and edge.source in ("*", _name(node, index)) for edge in node.transitions):
            _ask(draft, path, node, index, "failure")
        else:
            draft.fail(path, cause)

    def leaf_answered(self, draft: Draft, path: str, node: MachineSpec, index: int, leaf: str) -> bool:
        """A step of a state was answered: ask where to go, if a transition is meant for pauses."""
        if not any(edge.on == "pause" and edge.source in ("*", _name(node, index)) for edge in node.transitions):
            return False
        draft.update(path, left={**draft.needed(path).left, index: leaf})
        _ask(draft, path, node, index, "pause", leaf)
        return True

    def control_succeeded(self, draft: Draft, path: str, node: MachineSpec, event: Event) -> None:
        """Enter the next state; with none to enter, the node ends as its last state did, or goes on in it after a pause."""
        if control_of(event.path)[0] == "paused":
            self._leave_state(draft, path, node, event)
            return
        index, target = control_of(event.path)[1], event.data["verdict"]["to"]
        if target is not None:
            if draft.state(path).visited[-1] == index:
                _hop(draft, path, node, target)
        elif draft.needed(child_of(path, index)).status.succeeded:
            draft.complete(path)
        elif not draft.missing:
            draft.fail(path, child_of(path, index))

    def _leave_state(self, draft: Draft, path: str, node: MachineSpec, event: Event) -> None:
        index, target = control_of(event.path)[1], event.data["verdict"]["to"]
        state = draft.state(path)
        if target is None:
            leaf = state.left[index]
            draft.update(path, left={at: step for at, step in state.left.items() if at != index})
            draft.leave(leaf)
        elif state.visited[-1] == index:
            draft.hoist_context(child_of(path, index))
            _hop(draft, path, node, target)

    def child_input(self, graph: RunGraph, path: str, node: MachineSpec, index: int) -> Expression:
        """The output of the state before; after a state that failed, what that state got."""
        visited = graph.needed(path).visited
        if index not in visited:  # not known yet: it is being loaded
            return {}
        place = visited.index(index)
        return graph.input(path) if place == 0 else _passed_on(graph, path, visited[place - 1])

    def output(self, graph: RunGraph, path: str, node: MachineSpec) -> Expression:
        """That of the last state."""
        visited = graph.needed(path).visited
        if not visited:  # not known yet: it is being loaded
            return {}
        if _bodiless(node):  # one of which may have been reached from anywhere
            return _passed_on(graph, path, visited[-1])
        return graph.output(child_of(path, visited[-1]))

    def children(self, graph: RunGraph, path: str, node: MachineSpec) -> Iterator[tuple[int, str | None]]:
        """The states entered, by name."""
        return ((index, _name(node, index)) for index in graph.state(path).visited)

    def result(self, graph: RunGraph, path: str, node: MachineSpec, parts: list[NodeResult]) -> NodeResult:
        """One result with the history of every state's steps."""
        visited = graph.state(path).visited
        steps = [step for part in parts for step in part["step_history"]]
        story = self.control_story(graph, path, f"next.{visited[-1]}") if visited else None
        result = super().result(graph, path, node, parts)
        return {
            **result,
            "feedback": story or result["feedback"],
            "attempts": len(visited),
            "step_history": steps,
            "metadata_": {"states": [_name(node, index) for index in visited]},
        }


def _name(node: MachineSpec, index: int) -> str:
    return node.names[index % len(node.names)]


def _bodiless(node: MachineSpec) -> list[str]:
    """The end states that have nothing to run."""
    return [name for name in node.ends if name not in node.names]


def _passed_on(graph: RunGraph, path: str, index: int) -> Expression:
    """What the state after a state gets: its output, the answer at which it was left, or, if it failed, what it got."""
    state, left = child_of(path, index), graph.needed(path).left.get(index)
    if left is not None:
        return graph.output(left)
    return graph.output(state) if graph.needed(state).status.succeeded else graph.input(state)


def _hop(draft: Draft, path: str, node: MachineSpec, target: str) -> None:
    if target in _bodiless(node):
        draft.complete(path)
        return
    visited = draft.state(path).visited
    if len(visited) >= node.most_hops:
        message = f"The state machine was to enter '{target}' after {node.most_hops} hops, its limit"
        error = {"type": "RunFailedError", "message": message, "data": {"path": path}}
        draft.update(path, status=NodeStatus.FAILED, error=error)
        draft.fail(path, path)
        return
    index = len(visited) * len(node.names) + node.names.index(target)
    draft.update(path, visited=(*visited, index), context=draft.context(path))
    draft.enter(child_of(path, index))


def _ask(draft: Draft, path: str, node: MachineSpec, index: int, outcome: str, leaf: str | None = None) -> None:
    """Have the transitions judged. `leaf`: the step that was answered, whose output stands for the state's."""
    child = leaf or child_of(path, index)
    succeeded = outcome != "failure"
    draft.dispatch_control(
        path,
        "next" if leaf is None else "paused",
        index,
        value=draft.output(child) if succeeded else draft.input(child),
        producer=draft.producer(child) if succeeded else None,
        arguments={
            "state": _name(node, index),
            "outcome": outcome,
            "states": (*node.names, *_bodiless(node)),
            "transitions": [edge.model_dump(exclude={"when"}) for edge in node.transitions],
        },
    )
