"""Specs as text, and how much one may ask for: every process can read it, and every message can carry its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from flujo_client.protocol.errors import ConfigurationError, SchemaMismatchError
from flujo_client.protocol.leaves import CONTROLS
from flujo_client.protocol.spec import (
    SPEC_VERSION,
    ConditionalSpec,
    LoopSpec,
    MachineSpec,
    MapSpec,
    NodeSpec,
    ParallelSpec,
    PipelineSpec,
    SequenceSpec,
    StepSpec,
    SubPipelineSpec,
)

__all__ = ["LARGEST_SPEC", "LONGEST_FUNCTION", "LONGEST_PATH", "load_spec", "refuse_unsendable", "spec_text"]

#: Bytes of a spec: some 20,000 steps. Larger work is a map over data, not a longer pipeline.
LARGEST_SPEC: Final = 8 * 2**20

#: Characters of a step's place in a run, and of the functions that a message names; `StepRef` takes no more.
LONGEST_PATH: Final = 400
LONGEST_FUNCTION: Final = 2000

#: JSON values in one another: pydantic reads 200.
_DEEPEST: Final = 190

#: Of values inside a node: templates, schemas, data of a context.
_DEEPEST_VALUE: Final = 60

#: Characters that a control step puts behind its composite's path, and before its functions.
_CONTROL: Final = 24

#: Of a node's name: its control steps are called by it and more.
_LONGEST_NAME: Final = 100


def load_spec(text: str | bytes) -> PipelineSpec:
    """Read a spec.

    Raises:
        SchemaMismatchError: It is no spec, or one of a newer release, or larger than any release writes.
    """
    if len(text) > LARGEST_SPEC:
        raise _unreadable(f"it has {len(text)} bytes, more than {LARGEST_SPEC}")
    try:
        return PipelineSpec.model_validate_json(text)
    except ValueError as error:
        raise _unreadable(str(error).splitlines()[0]) from error


def _unreadable(fault: str) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"A pipeline spec cannot be read: {fault}.",
        suggestion=f"This release reads specs up to version {SPEC_VERSION}; upgrade it if a newer one published this spec.",
    )


def spec_text(spec: PipelineSpec) -> bytes:
    """The JSON of a spec, as it is stored.

    Raises:
        ConfigurationError: It is too large.
    """
    text = spec.model_dump_json().encode()
    if len(text) > LARGEST_SPEC:
        raise ConfigurationError(
            f"Pipeline '{spec.name}' has a spec of {len(text)} bytes, more than {LARGEST_SPEC}.",
            suggestion="Map one step over a list (Step.map_over) instead of listing a step for each item.",
        )
    return text


def refuse_unsendable(spec: PipelineSpec) -> None:
    """Make sure that every step of a pipeline fits into a message, and its spec can be read again.

    Raises:
        ConfigurationError: Names the first step that does not fit, and why.
    """
    for name, fault in _faults(spec.root, name="root", path=0, depth=3):
        raise ConfigurationError(
            f"Pipeline '{spec.name}' cannot be sent: {name}: {fault}.",
            suggestion="Make it flatter, or name its functions shorter.",
        )


def _faults(node: NodeSpec, name: str, path: int, depth: int) -> Iterator[tuple[str, str]]:
    """What does not fit, with the name of the node.

    Args:
        path: Characters of the node's path at the most.
        depth: JSON values around the node.
    """
    if depth > _DEEPEST:
        yield name, "too many nodes in one another"
    elif isinstance(node, SequenceSpec):
        for part in node.nodes:
            inner = name if isinstance(part, SequenceSpec) else part.name
            yield from _faults(part, inner, path + _digits(len(node.nodes)), depth + 2)
    else:
        yield from ((name, fault) for fault in _own_faults(node))
        if path + _CONTROL > LONGEST_PATH:
            yield name, "too many nodes in one another"
        for part in node.parts():
            around = 2 if isinstance(node, ParallelSpec | ConditionalSpec | MachineSpec) else 1  # in a list, or itself
            yield from _faults(part, name, path + _digits(_children(node)), depth + around)


def _own_faults(node: Any) -> Iterator[str]:
    """What of a leaf or composite does not fit, whatever is in it."""
    link = node if isinstance(node, StepSpec) else None
    for _ in range(_DEEPEST_VALUE):
        if link is None:
            break
        if len(link.wanted) > LONGEST_FUNCTION or len(link.wanted.split(" ")) > 1 + len(link.invariant_functions):
            yield f"its functions must have no spaces and {LONGEST_FUNCTION} characters at most"
        if _is_deep(link.template):
            yield "its input is nested too deep"
        link = link.fallback
    if link is not None:
        yield "too many fallbacks"
    if isinstance(node, SubPipelineSpec) and _is_deep(node.context_data):
        yield "the data of its context is nested too deep"
    if len(node.name) > _LONGEST_NAME:
        yield f"its name has more than {_LONGEST_NAME} characters"
    controls = [list(node.roles(control).values()) for control in CONTROLS]
    if any(" " in name for names in controls for name in names) or _longest(controls) + _CONTROL > LONGEST_FUNCTION:
        yield f"its functions must have no spaces and {LONGEST_FUNCTION} characters at most"


def _longest(controls: list[list[str]]) -> int:
    return max(len(" ".join(names)) for names in controls)


def _children(node: Any) -> int:
    """How many children a composite may get while it runs."""
    if isinstance(node, LoopSpec):
        return node.max_loops
    if isinstance(node, MachineSpec):
        return (node.most_hops + 1) * len(node.states)
    return 10**7 if isinstance(node, MapSpec) else len(node.parts())


def _digits(count: int) -> int:
    """Characters of an index of so many, and of the dot before it."""
    return len(str(max(0, count - 1))) + 1


def _is_deep(value: Any, left: int = _DEEPEST_VALUE) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return left == 0 or any(_is_deep(part, left - 1) for part in inner)
