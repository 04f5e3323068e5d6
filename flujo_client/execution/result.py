"""Assembles a run's result from its nodes. Outputs stay where they are; the reader of the result puts them in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.execution.faults import error_of
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import PipelineSpec

__all__ = ["assemble_result", "first_pause"]


def first_pause(nodes: Mapping[str, NodeState]) -> str | None:
    """The first node, in declared order, that waits for an answer; None if none does."""
    waiting = (path for path, node in nodes.items() if node.status is NodeStatus.PAUSED)
    return min(waiting, key=lambda path: tuple(map(int, path.split("."))), default=None)


def _final_context(graph: RunGraph) -> dict[str, Any]:
    return {"$context": list(graph.state("root").context)}


def _context_of_pause(graph: RunGraph, path: str) -> dict[str, Any]:
    """The context as the step that pauses sees it, and what it asks."""
    pause = graph.state(path).pause
    assert pause is not None
    return {
        "$context": list(graph.context(path)),
        "set": {"pause_message": pause.message},
        "payloads": {"paused_step_input": graph.input(path)},
    }


def assemble_result(
    spec: PipelineSpec,
    record: Mapping[str, str],
    nodes: Mapping[str, NodeState],
    stored: Mapping[str, dict[str, Any]],
    usage: Mapping[str, int],
) -> dict[str, Any]:
    """The JSON of a `PipelineResult` whose outputs are expressions.

    Args:
        record: The run's record.
        nodes: Every stored node.
        stored: What the worker committed of each step beside its output, by path.
        usage: What the run used, by meter.

    Returns:
        A dict as `PipelineResult` takes it, but each `output` is None or `{"$payload": expression}`, and
        `final_pipeline_context` is `{"$context": [payload, ...]}`, with `set` and `payloads` (expressions) over it.
    """
    status = RunStatus(record["status"])
    graph = RunGraph(spec, KINDS, lambda path: nodes.get(path, FRESH), stored)
    waiting = first_pause(nodes) if status is RunStatus.PAUSED else None
    return {
        "step_history": graph.results("root")["step_history"],
        "total_cost_usd": to_usd(usage.get(COST, 0)),
        "total_tokens": usage.get(TOKENS, 0),
        "final_pipeline_context": _final_context(graph) if waiting is None else _context_of_pause(graph, waiting),
        "success": status is RunStatus.COMPLETED,
        "run_id": record["run_id"],
        "status": status.value,
        "error": error_of(record, RunGraph(spec, KINDS, graph.state)),
        "usage": dict(usage),
        "pause_token": waiting,
        "left_by_caller": record.get("left") == "1",
    }
