"""Steps: the leaves, each one queued task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flujo_client.execution.decision import NodeState
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.spec import LeafSpec, StepSpec

__all__ = ["StepKind"]


class StepKind:
    """See `NodeKind`; and what other leaves share."""

    splits = False
    isolates = False
    opens = ""

    def enter(self, draft: Draft, path: str, node: Any) -> None:
        """Dispatch the first attempt."""
        if draft.state(path).attempt == 0:
            draft.dispatch_step(path, node)

    def child_succeeded(self, draft: Draft, path: str, node: LeafSpec, index: int) -> None:
        """A step has no children."""
        raise AssertionError(path)

    def child_failed(self, draft: Draft, path: str, node: LeafSpec, index: int, cause: str) -> None:
        """A step has no children."""
        raise AssertionError(path)

    def control_succeeded(self, draft: Draft, path: str, node: LeafSpec, event: Event) -> None:
        """A step has no control steps."""
        raise AssertionError(path)

    def child_input(self, graph: RunGraph, path: str, node: LeafSpec, index: int) -> Expression:
        """A step has no children."""
        raise AssertionError(path)

    def output(self, graph: RunGraph, path: str, node: LeafSpec) -> Expression:
        """What the step committed."""
        return f"out:{path}"

    def producer(self, graph: RunGraph, path: str, node: LeafSpec) -> Producer:
        """The step itself."""
        return Producer(node.name, node.output_type, node.function)

    def children(self, graph: RunGraph, path: str, node: LeafSpec) -> Iterator[tuple[int, str | None]]:
        """None."""
        return iter(())

    def result(self, graph: RunGraph, path: str, node: LeafSpec, parts: list[NodeResult]) -> NodeResult:
        """What the worker committed, and what the run counted."""
        state = graph.state(path)
        succeeded = state.status.succeeded
        result = {
            "name": node.name,
            "feedback": (state.error or {}).get("message"),
            "latency_s": state.latency_ms / 1000,
            **graph.stored(path),
            "success": succeeded,
            "attempts": state.failures + state.losses + (1 if succeeded else 0),
            "token_counts": state.usage.get(TOKENS, 0),
            "cost_usd": to_usd(state.usage.get(COST, 0)),
            "output": {"$payload": f"out:{path}"} if succeeded or state.keeps_output else None,
        }
        if (state.error or {}).get("data", {}).keys() >= {"asked", "free"} and isinstance(node, StepSpec):
            return _denied(node, result)
        return result if state.original_error is None else _after_fallback(node, state, result)


def _denied(node: StepSpec, result: NodeResult) -> NodeResult:
    """What a step shows that the budget could not pay for: what it would have used."""
    return {
        **result,
        "attempts": 0,
        "token_counts": node.estimate.get(TOKENS, 0),
        "cost_usd": to_usd(node.estimate.get(COST, 0)),
        "metadata_": {**result.get("metadata_", {}), "exit_reason": "quota_reservation_denied"},
    }


def _after_fallback(node: LeafSpec, state: NodeState, result: NodeResult) -> NodeResult:
    """What a step that fell back shows: the fallback's result, or both errors under its own name."""
    original = (state.original_error or {})["message"]
    if state.status.succeeded:
        told = {
            "fallback_triggered": True,
            "original_error": original,
            "preserve_fallback_diagnostics": isinstance(node, StepSpec) and node.preserve_fallback_diagnostics,
        }
        return {**result, "metadata_": {**result.get("metadata_", {}), **told}}
    story = f"Original error: {original}; Fallback error: {(state.error or {}).get('message')}"
    return {**result, "name": node.name, "feedback": story}
