"""Sequences: nodes one after the other; each gets the output of the one before."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import SequenceSpec

__all__ = ["SequenceKind"]


class SequenceKind(Composite):
    """See `NodeKind`."""

    def enter(self, draft: Draft, path: str, node: SequenceSpec) -> None:
        """Start the first node."""
        draft.enter(child_of(path, 0))

    def child_succeeded(self, draft: Draft, path: str, node: SequenceSpec, index: int) -> None:
        """Start the next node; after the last one, the sequence is done."""
        if index + 1 < len(node.nodes):
            draft.enter(child_of(path, index + 1))
        else:
            draft.complete(path)

    def child_failed(self, draft: Draft, path: str, node: SequenceSpec, index: int, cause: str) -> None:
        """The sequence fails; but what follows a loop that its limit ended may still make something of its output."""
        if draft.state(child_of(path, index)).exhausted and index + 1 < len(node.nodes):
            self.child_succeeded(draft, path, node, index)
        else:
            draft.fail(path, cause)

    def child_input(self, graph: RunGraph, path: str, node: SequenceSpec, index: int) -> Expression:
        """The output of the node before; the first gets what the sequence got."""
        return graph.output(child_of(path, index - 1)) if index else graph.input(path)

    def output(self, graph: RunGraph, path: str, node: SequenceSpec) -> Expression:
        """That of the last node."""
        return graph.output(child_of(path, len(node.nodes) - 1))

    def producer(self, graph: RunGraph, path: str, node: SequenceSpec) -> Producer:
        """That of the last node."""
        return graph.producer(child_of(path, len(node.nodes) - 1))

    def children(self, graph: RunGraph, path: str, node: SequenceSpec) -> Iterator[tuple[int, str | None]]:
        """Every node."""
        return ((index, None) for index in range(len(node.nodes)))

    def result(self, graph: RunGraph, path: str, node: SequenceSpec, parts: list[NodeResult]) -> NodeResult:
        """The sum of its parts; it has the name and the output of the last that ended."""
        last = {"name": parts[-1]["name"], "output": parts[-1]["output"]} if parts else {"output": None}
        return {**super().result(graph, path, node, parts), **last}
