"""Parallel nodes: branches at once, a share of the budget each; joined by a counter, contexts merged by a control step."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import MOST_DISPATCHES, Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.quota import Quota, Share
from flujo_client.protocol.replies import BranchEnd, Split
from flujo_client.protocol.spec import ParallelSpec

__all__ = ["ParallelKind"]


class ParallelKind(Composite):
    """See `NodeKind`."""

    splits = True
    isolates = True

    def enter(self, draft: Draft, path: str, node: ParallelSpec) -> None:
        """Split the budget, then start the branches; more than one script call can journal are started in slices."""
        state = draft.needed(path)  # an earlier slice may have opened some of it
        if draft.missing:
            return
        if state.status is NodeStatus.WAITING:
            count = len(node.branches)
            state = draft.update(path, status=NodeStatus.RUNNING, pending=count, context=draft.context(path))
            _split_budget(draft, path, count)
        while state.opened < len(node.branches):
            if len(draft.dispatches) >= MOST_DISPATCHES:
                draft.incomplete = True
                return
            draft.enter(child_of(path, state.opened))
            if draft.incomplete:
                return
            state = draft.update(path, opened=state.opened + 1)

    def child_succeeded(self, draft: Draft, path: str, node: ParallelSpec, index: int) -> None:
        """One branch fewer to wait for; its budget goes back at once."""
        if not draft.ended_before(child_of(path, index)):
            _end_branch(draft, path, index)
        _join_if_last(draft, path, node)

    def child_failed(self, draft: Draft, path: str, node: ParallelSpec, index: int, cause: str) -> None:
        """Remember why; the other branches run to their end."""
        if index not in draft.state(path).failed:
            draft.update(path, failed={**draft.state(path).failed, index: cause})
            _end_branch(draft, path, index)
        _join_if_last(draft, path, node)

    def control_succeeded(self, draft: Draft, path: str, node: ParallelSpec, event: Event) -> None:
        """The contexts are merged: the node is done."""
        draft.complete(path)

    def output(self, graph: RunGraph, path: str, node: ParallelSpec) -> Expression:
        """{branch: output}; a failed branch that was ignored stands as its failed step's result."""
        failed = graph.needed(path).failed
        return {
            name: f"res:{failed[index]}" if index in failed else graph.output(child_of(path, index))
            for index, name in enumerate(node.names)
        }

    def producer(self, graph: RunGraph, path: str, node: ParallelSpec) -> Producer:
        """The node itself."""
        return Producer(node.name, "dict", "")

    def children(self, graph: RunGraph, path: str, node: ParallelSpec) -> Iterator[tuple[int, str | None]]:
        """Every branch, by its name."""
        return enumerate(node.names)

    def result(self, graph: RunGraph, path: str, node: ParallelSpec, parts: list[NodeResult]) -> NodeResult:
        """The sum of its branches, and what became of them in a sentence."""
        named = [{**part, "name": f"{node.name}_{part['name']}"} for part in parts]
        return {
            **super().result(graph, path, node, named),
            "feedback": self._feedback(graph, path, node),
            "metadata_": {"executed_branches": list(node.names)},
        }

    def _feedback(self, graph: RunGraph, path: str, node: ParallelSpec) -> str:
        state = graph.state(path)
        failed, total = sorted(state.failed.items()), len(node.names)
        if state.status.succeeded:
            if failed:
                return f"Parallel step completed with {len(failed)} branch failures (ignored)"
            return f"All {total} branches executed successfully"
        if not failed:
            return self.control_story(graph, path, "merge") or "Parallel step did not finish"
        if len(failed) == 1:
            index, cause = failed[0]
            return f"branch '{node.names[index]}' failed: Pipeline failed - {_story(graph, cause)}"
        stories = "; ".join(f"branch '{node.names[index]}': {_story(graph, cause)}" for index, cause in failed)
        return (
            f"Parallel step failed: {len(failed)} of {total} branches failed ({total - len(failed)} succeeded). "
            f"Failures: {stories}"
        )


def _split_budget(draft: Draft, path: str, count: int) -> None:
    """Share out what the enclosing account has free; advance.lua refuses it if the account has moved."""
    chain = draft.accounts(path)
    free = draft.free.get(chain[0], {})
    draft.free[chain[0]] = {meter: 0 for meter in free}
    shares = [share.remaining() for share in Quota.of(free).split(count)]
    for meter, total in free.items():
        amounts = [share[meter] or 0 for share in shares]
        base = amounts[-1]
        draft.splits.append(Split(path, chain, meter, Share(total, base, sum(amount > base for amount in amounts))))
        for index, amount in enumerate(amounts):
            draft.free.setdefault(child_of(path, index), {})[meter] = amount


def _end_branch(draft: Draft, path: str, index: int) -> None:
    state, branch = draft.state(path), child_of(path, index)
    changed = draft.state(branch).context not in ((), state.context) and index not in state.failed
    draft.update(path, pending=state.pending - 1, changed=state.changed or changed)
    chain = draft.accounts(branch)
    draft.branch_ends.append(BranchEnd(chain))
    above = draft.free.setdefault(chain[1], {})
    for meter, amount in draft.free.pop(branch, {}).items():
        above[meter] = above.get(meter, 0) + amount


def _join_if_last(draft: Draft, path: str, node: ParallelSpec) -> None:
    state = draft.state(path)
    if state.pending > 0:
        return
    if state.failed and (node.on_branch_failure == "propagate" or len(state.failed) == len(node.branches)):
        draft.fail(path, next(iter(sorted(state.failed.items())))[1])
    elif state.changed and node.merge != "no_merge":
        _merge_contexts(draft, path, node)
    else:
        draft.complete(path)


def _merge_contexts(draft: Draft, path: str, node: ParallelSpec) -> None:
    """Contexts are merged by a worker, as a control step: the manager never reads them."""
    base = draft.state(path).context
    alive = [index for index in range(len(node.branches)) if index not in draft.state(path).failed]
    branches = {node.names[index]: draft.needed(child_of(path, index)).context or base for index in alive}
    if not draft.missing:
        draft.dispatch_control(path, "merge", value={}, branches=branches, merge=node.merge)


def _story(graph: RunGraph, cause: str) -> str:
    state = graph.state(cause)
    message = (state.error or {}).get("message", "failed")
    return f"step '{graph.name(cause)}' (after {state.failures + state.losses} attempts): {message}"
