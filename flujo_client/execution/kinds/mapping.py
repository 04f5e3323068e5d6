"""Maps: a body for each item, some at a time. What a run remembers of a map does not grow with the number of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import MOST_DISPATCHES, Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.join import Join, end_branch
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression, expression_fields, joined
from flujo_client.protocol.spec import MapSpec

__all__ = ["MapKind"]

#: Items whose outputs one control step gathers.
_SLICE = 500

#: Failed items that a map remembers by name; the others are counted.
_MOST_NAMED = 20


class MapKind(Join):
    """See `NodeKind`. Items are payloads of the control step that listed them, and outputs are gathered in slices."""

    def enter(self, draft: Draft, path: str, node: MapSpec) -> None:
        """Have the items listed; then start as many as may run at once."""
        state = draft.needed(path)  # an earlier slice may have opened some of it
        if draft.missing:
            return
        if state.status is NodeStatus.WAITING:
            draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
            value: Expression = draft.input(path) if node.iterable_input is None else {}
            draft.dispatch_control(path, "items", value=value, arguments={"iterable_input": node.iterable_input})
        elif state.items is not None:
            self.begin(draft, path, node)

    def order(self, graph: RunGraph, path: str, node: MapSpec) -> Sequence[int]:
        """Every item."""
        return range(graph.needed(path).items or 0)

    def opens_more(self, draft: Draft, path: str, node: MapSpec) -> bool:
        """No item begins after one whose failure fails the map."""
        return node.on_item_failure != "fail" or not draft.state(path).failed

    def remember_failure(self, draft: Draft, path: str, index: int, cause: str) -> None:
        """The first few by name, and how many there are."""
        state = draft.state(path)
        named = state.failed if len(state.failed) >= _MOST_NAMED else {**state.failed, index: cause}
        draft.update(path, failed=named, failed_items=state.failed_items + 1)

    def join(self, draft: Draft, path: str, node: MapSpec) -> None:
        """Fail, or gather what the items gave."""
        state = draft.state(path)
        if self.opens_more(draft, path, node):
            _gather(draft, path, node, 0)
        elif _give_up_the_rest(draft, path, state.items or 0):
            error = {"type": "RunFailedError", "message": _story(draft, path, node), "data": {"path": path}}
            draft.update(path, error=error)
            draft.fail(path, min(state.failed.items())[1])

    def control_succeeded(self, draft: Draft, path: str, node: MapSpec, event: Event) -> None:
        """Start the first items; after a slice was gathered, gather the next one."""
        control, number = control_of(event.path)
        if control == "items":
            draft.update(path, items=event.data["verdict"]["count"])
            self.begin(draft, path, node)
        elif (number + 1) * _SLICE < (draft.state(path).items or 0):
            _gather(draft, path, node, number + 1)
        else:
            draft.complete(path)

    def child_input(self, graph: RunGraph, path: str, node: MapSpec, index: int) -> Expression:
        """The item."""
        return f"out:{control_path(path, 'items', index)}"

    def output(self, graph: RunGraph, path: str, node: MapSpec) -> Expression:
        """The slices, one after the other."""
        items = graph.needed(path).items or 0
        return joined([f"out:{control_path(path, 'gather', number)}" for number in range(max(1, -(-items // _SLICE)))])

    def producer(self, graph: RunGraph, path: str, node: MapSpec) -> Producer:
        """The node itself."""
        return Producer(node.name, "list", "")

    def children(self, graph: RunGraph, path: str, node: MapSpec) -> Iterator[tuple[int, str | None]]:
        """The items that began."""
        return ((index, f"{node.name} #{index}") for index in range(graph.needed(path).opened))

    def result(self, graph: RunGraph, path: str, node: MapSpec, parts: list[NodeResult]) -> NodeResult:
        """One result with the history of every item's steps."""
        state, result = graph.state(path), super().result(graph, path, node, parts)
        slices = (f"gather.{number}" for number in range(-(-(state.items or 0) // _SLICE)))
        stories = (self.control_story(graph, path, control) for control in ("items", *slices))
        story = next(filter(None, stories), result["feedback"])
        if state.status.succeeded and state.failed_items:
            story = _story(graph, path, node)
        return {
            **result,
            "feedback": story,
            "attempts": state.opened,
            "step_history": [step for part in parts for step in part["step_history"]],
            "metadata_": {"items": state.items or 0, "failed_items": sorted(state.failed)},
        }


def _gather(draft: Draft, path: str, node: MapSpec, number: int) -> None:
    state = draft.state(path)
    outputs: list[Expression | None] = []
    contexts: dict[str, tuple[str, ...]] = {}
    for index in range(number * _SLICE, min((number + 1) * _SLICE, state.items or 0)):
        child = draft.needed(child_of(path, index))
        if child.status.succeeded:
            outputs.append(draft.output(child_of(path, index)))
        elif node.on_item_failure == "none":
            outputs.append(None)
        if child.status.succeeded and child.context not in ((), state.context):
            contexts[f"item {index}"] = child.context
    if draft.missing:
        return
    if contexts and node.merge != "no_merge":
        before = draft.context(path)
        earlier = {"items before": before} if before != state.context else {}
        contexts = {"": state.context, **earlier, **contexts}
    else:
        contexts = {}
    fields = [field for part in outputs if part is not None for field in expression_fields(part)]
    draft.dispatch_control(
        path,
        "gather",
        number,
        value={field: field for field in fields},
        references=True,
        branches=contexts,
        merge=node.merge,
        arguments={"outputs": outputs, "numbers": node.merge_numbers},
    )


def _give_up_the_rest(draft: Draft, path: str, count: int) -> bool:
    """Give back the shares of the items that never begin, in slices; whether that is done."""
    while draft.run.limits and draft.state(path).opened < count:
        if len(draft.branch_ends) >= MOST_DISPATCHES:
            draft.incomplete = True
            return False
        state = draft.state(path)
        draft.update(path, opened=state.opened + 1, pending=state.pending - 1)
        end_branch(draft, path, state.opened)
    return True


def _story(graph: RunGraph, path: str, node: MapSpec) -> str:
    """Which items failed, and why."""
    state = graph.state(path)
    stories = [
        f"item {index}: step '{graph.name(cause)}': {(graph.needed(cause).error or {}).get('message', 'failed')}"
        for index, cause in sorted(state.failed.items())
    ]
    more = "" if state.failed_items <= len(stories) else f" and {state.failed_items - len(stories)} more"
    return f"Map '{node.name}': {state.failed_items} of {state.items} items failed: {'; '.join(stories)}{more}"
