"""Results of nodes while their run goes on: for control steps that hand them to the user's functions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import Kinds, NodeResult, RunGraph
from flujo_client.protocol.payloads import Expression, expression_fields

__all__ = ["ReferencedResult", "result_with_references"]


class ReferencedResult(NamedTuple):
    """A `StepResult` as JSON, and the payloads that it refers to.

    Attributes:
        json: With `{"$payload": expression}` in the place of outputs, and `{"$stored": field}` for what a worker committed
            beside them.
        fields: Of the payloads.
    """

    json: NodeResult
    fields: list[str]

    @property
    def expression(self) -> Expression:
        """The payloads by their fields."""
        return {field: field for field in self.fields}


def result_with_references(draft: Draft, path: str) -> ReferencedResult:
    """The result of a node that has ended, with those of its children. Incomplete where the draft lacks nodes."""
    json = _ReferringGraph(draft, draft.kinds).results(path)
    return ReferencedResult(json, list(dict.fromkeys(_fields(json))))


class _ReferringGraph(RunGraph):
    def __init__(self, draft: Draft, kinds: Kinds) -> None:
        super().__init__(draft.spec, kinds, draft.needed)

    def stored(self, path: str) -> dict[str, Any]:
        return {"$stored": f"res:{path}"}


def _fields(part: NodeResult) -> Iterator[str]:
    if "$stored" in part:
        yield part["$stored"]
    output = part.get("output")
    if isinstance(output, dict) and "$payload" in output:
        yield from expression_fields(output["$payload"])
    for inner in part.get("step_history", ()):
        yield from _fields(inner)
