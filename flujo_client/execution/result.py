"""Assembles a run's result from its nodes. Outputs stay where they are; the reader of the result puts them in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core

from flujo_client.execution.decision import NodeState
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import PipelineSpec

__all__ = ["assemble_result"]


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
        `final_pipeline_context` is `{"$context": [payload, ...]}`.
    """
    status = RunStatus(record["status"])
    graph = RunGraph(spec, KINDS, lambda path: nodes.get(path, NodeState()), stored)
    return {
        "step_history": graph.results("root")["step_history"],
        "total_cost_usd": to_usd(usage.get(COST, 0)),
        "total_tokens": usage.get(TOKENS, 0),
        "final_pipeline_context": {"$context": list(graph.state("root").context)},
        "success": status is RunStatus.COMPLETED,
        "run_id": record["run_id"],
        "status": status.value,
        "error": pydantic_core.from_json(record["error"]) if record.get("error") else None,
        "usage": dict(usage),
    }
