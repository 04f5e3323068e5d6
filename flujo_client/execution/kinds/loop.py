"""Loops: a body until a condition holds. After each iteration a control step asks the condition and maps the next input."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import LoopSpec

__all__ = ["LoopKind"]

#: What a loop says that one of its own functions ended.
_RAISED_BY = {
    "exit_condition": "exit_condition_error",
    "iteration_mapper": "iteration_input_mapper_error",
    "output_mapper": "loop_output_mapper_error",
}

#: The same, where no code of the user's raised anything: its worker died too often.
_NOBODYS_ERROR = "pipeline_execution_error"


class LoopKind(Composite):
    """See `NodeKind`."""

    isolates = True

    def enter(self, draft: Draft, path: str, node: LoopSpec) -> None:
        """Map the first input, if there is something to map it; then the first iteration."""
        if draft.needed(path).status is not NodeStatus.WAITING or draft.missing:
            return
        draft.update(path, status=NodeStatus.RUNNING)
        if node.initial_mapper is not None:
            draft.dispatch_control(path, "enter", value=draft.input(path))
        else:
            _iterate(draft, path)

    def child_succeeded(self, draft: Draft, path: str, node: LoopSpec, index: int) -> None:
        """Ask whether that was the last iteration."""
        child = child_of(path, index)
        draft.hoist_context(child)
        draft.dispatch_control(
            path,
            "next",
            index,
            value=draft.output(child),
            producer=draft.producer(child),
            arguments={"iterations": index + 1, "last": index + 1 >= node.max_loops},
        )

    def child_failed(self, draft: Draft, path: str, node: LoopSpec, index: int, cause: str) -> None:
        """The loop fails with its body; of a step that was given up it says so."""
        if ((draft.state(cause).error or {}).get("data") or {}).get("dead_letter"):
            draft.update(path, broken=True)
        super().child_failed(draft, path, node, index, cause)

    def control_succeeded(self, draft: Draft, path: str, node: LoopSpec, event: Event) -> None:
        """Start the next iteration, or end the loop."""
        control, index = control_of(event.path)
        if control == "enter":
            _iterate(draft, path)
        elif event.data["verdict"]["exit"]:
            draft.complete(path)
        elif index + 1 < node.max_loops:
            if draft.state(path).opened == index + 1:
                _iterate(draft, path)
        else:
            _exhaust(draft, path)

    def child_input(self, graph: RunGraph, path: str, node: LoopSpec, index: int) -> Expression:
        """What a mapper made; without one, the loop's input, and then the output of the iteration before, or the same again."""
        if index == 0 or node.same_input:
            return graph.input(path) if node.initial_mapper is None else _committed(path, "enter")
        if node.iteration_mapper is None:
            return graph.output(child_of(path, index - 1))
        return _committed(path, "next", index - 1)

    def output(self, graph: RunGraph, path: str, node: LoopSpec) -> Expression:
        """What the output mapper made of the last iteration's output."""
        last = graph.needed(path).opened - 1
        if node.output_mapper is None:
            return graph.output(child_of(path, last)) if last >= 0 else graph.input(path)
        return _committed(path, "next", last)

    def producer(self, graph: RunGraph, path: str, node: LoopSpec) -> Producer:
        """The body's last step, if its output is not mapped."""
        return graph.producer(child_of(path, 0)) if node.output_mapper is None else Producer(node.name, "Any", "")

    def children(self, graph: RunGraph, path: str, node: LoopSpec) -> Iterator[tuple[int, str | None]]:
        """The iterations so far, counted from one."""
        return ((index, f"{node.name} #{index + 1}") for index in range(graph.state(path).opened))

    def result(self, graph: RunGraph, path: str, node: LoopSpec, parts: list[NodeResult]) -> NodeResult:
        """One result with the history of every iteration's steps."""
        state = graph.state(path)
        ends = state.status.succeeded or state.exhausted
        reason = "max_loops" if state.exhausted else "condition" if ends else self._failure(graph, path)
        result = super().result(graph, path, node, parts)
        feedback = self._control_feedback(graph, path)
        if feedback is None and reason in ("body_step_error", _NOBODYS_ERROR):
            feedback = f"Loop body failed: {result['feedback']}"
        feedback = feedback or result["feedback"]
        return {
            **result,
            "output": {"$payload": graph.output(path)} if ends else None,
            "feedback": feedback,
            "attempts": state.opened,
            "step_history": [step for part in parts for step in part["step_history"]],
            "metadata_": {"iterations": state.opened, "exit_reason": reason},
        }

    def _failure(self, graph: RunGraph, path: str) -> str:
        state = graph.state(path)
        if (state.error or {}).get("type") == "UsageLimitExceededError":
            return "quota_limit_exceeded"
        if self.control_story(graph, path, "enter") is not None:
            return "initial_input_mapper_error"
        error = graph.state(control_path(path, "next", state.opened - 1)).error
        if error is not None:
            return _RAISED_BY.get(error.get("role", ""), _NOBODYS_ERROR)
        return _NOBODYS_ERROR if state.broken else "body_step_error"

    def _control_feedback(self, graph: RunGraph, path: str) -> str | None:
        last = graph.state(path).opened - 1
        return self.control_story(graph, path, "enter") or self.control_story(graph, path, f"next.{last}")


def _iterate(draft: Draft, path: str) -> None:
    """Open one more iteration; it starts with the context that the one before left."""
    opened = draft.state(path).opened
    draft.update(path, opened=opened + 1, context=draft.context(path))
    draft.enter(child_of(path, opened))


def _exhaust(draft: Draft, path: str) -> None:
    """The loop was left by its limit: it failed, but what follows it may still make something of its output."""
    error = {"type": "RunFailedError", "message": "reached max_loops", "data": {"path": path}}
    draft.update(path, status=NodeStatus.FAILED, exhausted=True, error=error)
    draft.fail(path, path)


def _committed(path: str, control: str, number: int | None = None) -> Expression:
    return f"out:{control_path(path, control, number)}"
