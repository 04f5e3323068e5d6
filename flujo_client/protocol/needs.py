"""Which of the user's functions a pipeline calls, and so what a worker must have to run it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.protocol.leaves import CONTROLS
from flujo_client.protocol.spec import NodeSpec, PipelineSpec, SequenceSpec, StepSpec

__all__ = ["needs_of"]


def needs_of(spec: PipelineSpec, start: int = 0) -> list[tuple[str, str]]:
    """Every function that a pipeline's nodes from a top-level one on call: the step's or composite's name, and the reference."""
    return list(dict.fromkeys(need for node in spec.root.nodes[start:] for need in _needs(node)))


def _needs(node: NodeSpec) -> Iterator[tuple[str, str]]:
    if not isinstance(node, SequenceSpec):
        for control in CONTROLS:
            yield from ((node.name, function) for function in node.roles(control).values())
    if isinstance(node, StepSpec):
        link: StepSpec | None = node
        while link is not None:
            yield from ((link.name, function) for function in link.wanted.split(" "))
            link = link.fallback
    for part in node.parts():
        yield from _needs(part)
