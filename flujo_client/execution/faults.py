"""What the error of a run is: one rule for its result, `flujo runs`, `show` and `watch`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core

from flujo_client.execution.graph import NodeResult, RunGraph
from flujo_client.protocol.envelopes import STEP_FAILED
from flujo_client.protocol.results import RunStatus

__all__ = ["error_of"]


def error_of(record: Mapping[str, str], graph: RunGraph) -> dict[str, Any] | None:
    """The envelope of what kept a run from completing; None if nothing did.

    What ended the run, if something did that is raised: a limit, a type, a cancellation. Else what the step says that
    failed for good: the last one of its sequence, innermost first; its code tells that nobody raises it.

    Args:
        record: Of the run.
        graph: Its nodes.
    """
    if record.get("error"):
        stored: dict[str, Any] = pydantic_core.from_json(record["error"])
        return stored
    if record["status"] != RunStatus.FAILED:
        return None
    name, feedback = _blamed(graph.results("root")["step_history"])
    told = feedback if feedback.startswith(f"step '{name}'") else f"step '{name}': {feedback}"
    return {
        "type": "RunFailedError",
        "message": told,
        "data": {"run_id": record["run_id"], "step": name},
        "code": STEP_FAILED,
    }


def _blamed(parts: Sequence[NodeResult]) -> tuple[str, str]:
    """Name and feedback of the node that failed."""
    for part in reversed(parts):
        if part["success"]:
            continue
        inside = _blamed(part.get("step_history") or ())
        if inside[1]:
            return inside
        if part["feedback"]:
            return str(part["name"]), str(part["feedback"])
    return "", ""
