"""What nodes with children at once have in common: shares of the budget, a limit on how many run, and a counter that joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flujo_client.execution.draft import MOST_DISPATCHES, Draft
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of
from flujo_client.protocol.quota import Quota, Share
from flujo_client.protocol.replies import BranchEnd, Split

__all__ = ["Join", "end_branch"]


class Join(Composite):
    """The part of `NodeKind` that parallel nodes and maps share. Cost does not grow with the number of children that have ended."""

    splits = True
    isolates = True

    def order(self, graph: RunGraph, path: str, node: Any) -> Sequence[int]:
        """The indices of the children, in the order in which they begin."""
        raise NotImplementedError

    def shares(self, graph: RunGraph, path: str, node: Any) -> int:
        """Into how many the budget is split."""
        return len(self.order(graph, path, node))

    def weights(self, node: Any) -> tuple[int, ...]:
        """Of the children's shares; none: they are equal."""
        return ()

    def opens_more(self, draft: Draft, path: str, node: Any) -> bool:
        """Whether children that have not begun still may."""
        return True

    def remember_failure(self, draft: Draft, path: str, index: int, cause: str) -> None:
        """A child failed, because of the step at `cause`."""
        raise NotImplementedError

    def join(self, draft: Draft, path: str, node: Any) -> None:
        """Every child that began has ended, and no other begins."""
        raise NotImplementedError

    def begin(self, draft: Draft, path: str, node: Any) -> None:
        """Split the budget, then open children; called again, go on opening them."""
        if not draft.state(path).split:
            self.begin_split(draft, path, node)
        self.go_on(draft, path, node)

    def begin_split(self, draft: Draft, path: str, node: Any) -> None:
        """Split the budget, once."""
        draft.update(path, split=True, pending=len(self.order(draft, path, node)))
        if shares := self.shares(draft, path, node):
            _split_budget(draft, path, shares, self.weights(node))

    def go_on(self, draft: Draft, path: str, node: Any) -> None:
        """Open as many children as may run, in slices if one script call cannot journal them. Join if all have ended."""
        if path in draft.opening:  # a child that ended as soon as it began: the loop below goes on
            return
        draft.opening.add(path)
        order = self.order(draft, path, node)
        while self._may_open(draft, path, node, len(order)) and not draft.incomplete:
            if len(draft.dispatches) >= MOST_DISPATCHES:
                draft.incomplete = True
                break
            opened = draft.state(path).opened
            draft.enter(child_of(path, order[opened]))
            if not draft.incomplete:
                draft.update(path, opened=opened + 1)
        draft.opening.discard(path)
        if not draft.incomplete and _running(draft, path, len(order)) == 0:
            self.join(draft, path, node)

    def _may_open(self, draft: Draft, path: str, node: Any, count: int) -> bool:
        if draft.state(path).opened >= count or not self.opens_more(draft, path, node):
            return False
        return node.max_concurrency is None or _running(draft, path, count) < node.max_concurrency

    def child_succeeded(self, draft: Draft, path: str, node: Any, index: int) -> None:
        """One child fewer to wait for; its budget goes back at once, and another may begin."""
        if not draft.ended_before(child_of(path, index)):
            branch, state = draft.state(child_of(path, index)), draft.state(path)
            changed = branch.context not in ((), state.context)
            draft.update(path, changed=state.changed or changed, pending=state.pending - 1)
            end_branch(draft, path, index)
        self.go_on(draft, path, node)

    def child_failed(self, draft: Draft, path: str, node: Any, index: int, cause: str) -> None:
        """Remember why; the other children run to their end."""
        if not draft.ended_before(child_of(path, index)):
            self.remember_failure(draft, path, index, cause)
            draft.update(path, pending=draft.state(path).pending - 1)
            end_branch(draft, path, index)
        self.go_on(draft, path, node)


def _running(draft: Draft, path: str, count: int) -> int:
    state = draft.state(path)
    return state.opened - (count - state.pending)


def end_branch(draft: Draft, path: str, index: int) -> None:
    """A child has ended, or never begins: what its account has left goes back."""
    branch = child_of(path, index)
    chain = draft.accounts(branch)
    draft.branch_ends.append(BranchEnd(draft.chain(branch)))
    above = draft.free.setdefault(chain[1], {})
    for meter, amount in draft.free.pop(branch, {}).items():
        above[meter] = above.get(meter, 0) + amount


def _split_budget(draft: Draft, path: str, count: int, weights: tuple[int, ...]) -> None:
    """Share out what the enclosing account has free; advance.lua refuses it if the account has moved."""
    if draft.run.free is None and draft.run.limits:
        draft.needs_free = True
        return
    chain = draft.accounts(path)
    free = draft.free.get(chain[0], {})
    draft.free[chain[0]] = {meter: 0 for meter in free}
    shares = [share.remaining() for share in Quota.of(free).split(count, weights)]
    for meter, total in free.items():
        amounts = [share[meter] or 0 for share in shares]
        base = amounts[-1]
        even = Share(total, count, base, sum(amount > base for amount in amounts))
        share = Share(total, count, 0, 0, tuple(amounts)) if weights else even
        draft.splits.append(Split(path, chain, meter, share))
        for index, amount in enumerate(amounts):
            draft.free.setdefault(child_of(path, index), {})[meter] = amount
