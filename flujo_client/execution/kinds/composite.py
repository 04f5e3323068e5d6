"""What composites have in common: a result made of their parts', and no control steps unless they say so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression

__all__ = ["Composite"]


class Composite:
    """The part of `NodeKind` that most composites share."""

    splits = False
    isolates = False
    opens = ""

    def child_failed(self, draft: Draft, path: str, node: Any, index: int, cause: str) -> None:
        """The node fails with its child."""
        draft.fail(path, cause)

    def control_succeeded(self, draft: Draft, path: str, node: Any, event: Event) -> None:
        """The node has no control steps."""
        raise AssertionError(path)

    def child_input(self, graph: RunGraph, path: str, node: Any, index: int) -> Expression:
        """What the node got."""
        return graph.input(path)

    def producer(self, graph: RunGraph, path: str, node: Any) -> Producer:
        """The node itself; what type its output has is not known."""
        return Producer(graph.name(path), "Any", "")

    def children(self, graph: RunGraph, path: str, node: Any) -> Iterator[tuple[int, str | None]]:
        """Those that its state says were opened."""
        return ((index, None) for index in range(graph.state(path).opened))

    def result(self, graph: RunGraph, path: str, node: Any, parts: list[NodeResult]) -> NodeResult:
        """The sum of its parts."""
        state = graph.state(path)
        succeeded = state.status.succeeded
        blamed = next((part["feedback"] for part in reversed(parts) if not part["success"]), None)
        return {
            "name": graph.name(path),
            "output": {"$payload": graph.output(path)} if succeeded else None,
            "success": succeeded,
            "attempts": 1,
            "latency_s": sum(part["latency_s"] for part in parts),
            "token_counts": sum(part["token_counts"] for part in parts),
            "cost_usd": sum(part["cost_usd"] for part in parts),
            "feedback": None if succeeded else (state.error or {}).get("message", blamed),
            "step_history": parts,
        }

    def control_story(self, graph: RunGraph, path: str, control: str) -> str | None:
        """What went wrong in a control step; None if nothing did."""
        error = graph.state(f"{path}!{control}").error
        return None if error is None else str(error["message"])
