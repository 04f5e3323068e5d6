"""Puts payloads into the results that a control step got with references to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_client.protocol.payloads import evaluate
from flujo_client.protocol.results import branch_outputs

__all__ = ["complete_result"]


def complete_result(part: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A `StepResult` as JSON with its outputs, and those of the steps in it.

    Args:
        part: With `{"$payload": expression}` in the place of outputs, `{"$branches": names}` where they are those of its parts, and
            `{"$stored": field}` for what a worker committed.
        values: Of the payloads, by field.
    """
    stored = values.get(part.get("$stored", ""), {})
    whole = {**{key: value for key, value in part.items() if key != "$stored"}, **stored}
    whole["metadata_"] = {**stored.get("metadata_", {}), **part.get("metadata_", {})}
    if isinstance(part.get("output"), dict) and "$payload" in part["output"]:
        whole["output"] = evaluate(part["output"]["$payload"], values.__getitem__)
    whole["step_history"] = [complete_result(inner, values) for inner in part.get("step_history", ())]
    if isinstance(part.get("output"), dict) and "$branches" in part["output"]:
        whole["output"] = branch_outputs(part["output"]["$branches"], whole["step_history"])
    return whole
