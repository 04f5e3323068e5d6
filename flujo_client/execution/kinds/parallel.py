"""Parallel nodes: branches at once. Their contexts are merged, and their results reduced, by a control step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.join import Join, end_branch
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.execution.references import result_with_references
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.results import FAILED_BRANCH
from flujo_client.protocol.spec import ParallelSpec

__all__ = ["ParallelKind"]

#: How the feedback of a function that raised begins, see the coordinator.
_RAISED = "Agent execution failed with "


class ParallelKind(Join):
    """See `NodeKind`."""

    opens = "enter"

    def enter(self, draft: Draft, path: str, node: ParallelSpec) -> None:
        """Make the branches' context, if it is not just the one around the node; then start them."""
        state = draft.needed(path)  # an earlier slice may have opened some of it
        if draft.missing:
            return
        if not node.names:
            error = {"type": "RunFailedError", "message": "Parallel step has no branches", "data": {"path": path}}
            draft.update(path, status=NodeStatus.FAILED, error=error)
            draft.fail(path, path)
            return
        if state.status is NodeStatus.WAITING:
            draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
            if node.context_include_keys is not None:
                draft.dispatch_control(path, "enter", value={}, arguments={"keys": node.context_include_keys})
                return
        if node.context_include_keys is None or draft.needed(control_path(path, "enter")).status.succeeded:
            self._begin(draft, path, node)

    def _begin(self, draft: Draft, path: str, node: ParallelSpec) -> None:
        picked = draft.state(path).picked
        if picked is None or len(picked) == len(node.names):
            self.begin(draft, path, node)
        elif not draft.state(path).split and draft.run.limits:
            self.begin_split(draft, path, node)
            draft.incomplete = True  # the shares of the branches that do not run go back once they exist
        else:
            if draft.state(path).opened == 0:
                for index in sorted(set(range(len(node.names))) - set(picked)):
                    end_branch(draft, path, index)
            self.begin(draft, path, node)

    def order(self, graph: RunGraph, path: str, node: ParallelSpec) -> Sequence[int]:
        """Every branch, or those that were picked, in declared order."""
        picked = graph.state(path).picked
        return range(len(node.names)) if picked is None else picked

    def shares(self, graph: RunGraph, path: str, node: ParallelSpec) -> int:
        """One for each branch, picked or not: a branch's share is found by its index."""
        return len(node.names)

    def weights(self, node: ParallelSpec) -> tuple[int, ...]:
        """See `Join.weights`."""
        return node.weights

    def remember_failure(self, draft: Draft, path: str, index: int, cause: str) -> None:
        """By branch."""
        draft.update(path, failed={**draft.state(path).failed, index: cause})

    def join(self, draft: Draft, path: str, node: ParallelSpec) -> None:
        """Fail, or merge, reduce and show what failed, or just be done."""
        state = draft.state(path)
        count = len(self.order(draft, path, node))
        if state.failed and (node.on_branch_failure == "propagate" or len(state.failed) == count):
            draft.fail(path, next(iter(sorted(state.failed.items())))[1])
        elif node.reduce is not None or state.failed or (state.changed and node.merge != "no_merge"):
            _merge_and_reduce(draft, path, node, self.order(draft, path, node))
        else:
            draft.complete(path)

    def control_succeeded(self, draft: Draft, path: str, node: ParallelSpec, event: Event) -> None:
        """Start the branches; after the merge, the node is done."""
        if control_of(event.path)[0] == "enter":
            self._begin(draft, path, node)
            return
        if told := event.data.get("verdict"):
            draft.update(path, told=told)
        draft.complete(path)

    def output(self, graph: RunGraph, path: str, node: ParallelSpec) -> Expression:
        """{branch: output}, or what the reducer made; a failed branch that was ignored stands as its `StepResult`."""
        if node.reduce is not None:
            return f"out:{control_path(path, 'merge')}"
        failed = sorted(graph.needed(path).failed)
        shown = {index: f"{FAILED_BRANCH}:{control_path(path, 'merge', place)}" for place, index in enumerate(failed)}
        return {
            node.names[index]: shown.get(index) or graph.output(child_of(path, index))
            for index in self.order(graph, path, node)
        }

    def producer(self, graph: RunGraph, path: str, node: ParallelSpec) -> Producer:
        """The node itself."""
        return Producer(node.name, "dict" if node.reduce is None else "Any", "")

    def children(self, graph: RunGraph, path: str, node: ParallelSpec) -> Iterator[tuple[int, str | None]]:
        """Every branch, by its name."""
        return ((index, node.names[index]) for index in self.order(graph, path, node))

    def result(self, graph: RunGraph, path: str, node: ParallelSpec, parts: list[NodeResult]) -> NodeResult:
        """The sum of its branches, and what became of them in a sentence."""
        told = graph.state(path).told or {}
        named = [{**part, "name": f"{node.name}_{part['name']}"} for part in parts]
        names = [node.names[index] for index in self.order(graph, path, node)]
        failed = graph.state(path).status is NodeStatus.FAILED
        shown = {"output": {"$branches": names}} if failed and parts else {}
        return {
            **super().result(graph, path, node, named),
            **shown,
            "feedback": told.get("feedback") or self._feedback(graph, path, node),
            "metadata_": {"executed_branches": names, **told.get("metadata", {})},
        }

    def _feedback(self, graph: RunGraph, path: str, node: ParallelSpec) -> str:
        state = graph.state(path)
        failed, total = sorted(state.failed.items()), len(self.order(graph, path, node))
        if state.status.succeeded:
            if failed:
                return f"Parallel step completed with {len(failed)} branch failures (ignored)"
            return f"All {total} branches executed successfully"
        if state.error is not None:
            return str(state.error["message"])
        if not failed:
            return self._control_feedback(graph, path) or "Parallel step did not finish"
        if len(failed) == 1:
            index, cause = failed[0]
            return f"branch '{node.names[index]}' failed: Pipeline failed - {_story(graph, cause)}"
        stories = "; ".join(f"branch '{node.names[index]}': {_story(graph, cause)}" for index, cause in failed)
        return (
            f"Parallel step failed: {len(failed)} of {total} branches failed ({total - len(failed)} succeeded). "
            f"Failures: {stories}"
        )

    def _control_feedback(self, graph: RunGraph, path: str) -> str | None:
        story = self.control_story(graph, path, "enter") or self.control_story(graph, path, "merge")
        if story is None or not story.startswith(_RAISED):
            return story
        return f"The merge or the reducer of step '{graph.name(path)}' failed with {story.removeprefix(_RAISED)}"


def _merge_and_reduce(draft: Draft, path: str, node: ParallelSpec, order: Sequence[int]) -> None:
    """Contexts are merged, and results reduced, by a worker: the manager never reads them."""
    state = draft.state(path)
    alive = [index for index in order if index not in state.failed]
    branches = {node.names[index]: draft.needed(child_of(path, index)).context or state.context for index in alive}
    given = {} if node.context_include_keys is None else {"": state.context}
    merges = state.changed and node.merge != "no_merge"
    shown = order if node.reduce is not None else sorted(state.failed)
    results = [(node.names[index], result_with_references(draft, child_of(path, index))) for index in shown]
    producers = {}
    if node.reduce is not None:
        producers = {node.names[index]: draft.producer(child_of(path, index)).function for index in alive}
    if draft.missing:
        return
    draft.dispatch_control(
        path,
        "merge",
        value={field: field for _, result in results for field in result.fields},
        references=True,
        branches={**given, **branches} if merges else {},
        merge=node.merge if merges else "",
        arguments={
            "results": [{**result.json, "name": f"{node.name}_{name}"} for name, result in results],
            "names": [name for name, _ in results],
            "producers": producers,
            "numbers": node.merge_numbers,
            "field_mapping": node.field_mapping,
        },
    )


def _story(graph: RunGraph, cause: str) -> str:
    state = graph.state(cause)
    message = (state.error or {}).get("message", "failed")
    return f"step '{graph.name(cause)}' (after {state.failures + state.losses} attempts): {message}"
