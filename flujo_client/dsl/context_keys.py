"""What steps read from the context by their `input_keys`, against what can be there: the model, initial data, earlier steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flujo_client.dsl.callables import Signature
from flujo_client.dsl.findings import ValidationFinding
from flujo_client.protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from flujo_client.dsl.pipeline import Pipeline, Step

__all__ = ["unwritten_keys"]


@dataclass(slots=True)
class _Known:
    """What may be in the context at a point of a pipeline.

    Attributes:
        keys: First words of places that were there, or that an earlier step says it writes.
        opaque: Some earlier step may have written anything.
    """

    keys: set[str]
    opaque: bool = False
    findings: list[ValidationFinding] = field(default_factory=list)


def unwritten_keys(pipeline: Pipeline, place: str, known: Collection[str]) -> Iterator[ValidationFinding]:
    """Steps that read what nothing before them can have written.

    Args:
        known: Fields of the context that the run begins with.
    """
    state = _Known(set(known))
    _follow(pipeline, place, state)
    yield from state.findings


def _follow(pipeline: Pipeline, place: str, known: _Known) -> None:
    for step in pipeline.steps:
        at = f"{place}/{step.name}"
        own = known.keys | _fields_of(step)
        for key in step.input_keys:
            if not known.opaque and _word(key) not in own:
                known.findings.append(
                    ValidationFinding(
                        rule="context_keys",
                        place=at,
                        message=f"the step reads '{key}' of the context, which no step before it writes",
                        suggestion="Declare it in output_keys or sink_to of the step that writes it, as a field of the context "
                        "model, or give it with the initial data.",
                    )
                )
        before = set(known.keys)
        for name, inner in step.parts().items():
            branch = _Known(set(before), known.opaque, known.findings)
            _follow(inner, f"{at}/{name}", branch)
            known.keys |= branch.keys
            known.opaque |= branch.opaque
        for link in step.fallbacks():
            known.keys |= {_word(key) for key in (*link.output_keys, *_kept(link))}
            known.opaque |= not link.output_keys and _may_write_anything(link)


def _kept(step: Step[Any, Any]) -> list[str]:
    places = (step.sink_to, step.persist_feedback_to_context, step.persist_validation_results_to)
    return [place for place in places if place is not None]


def _may_write_anything(step: Step[Any, Any]) -> bool:
    signature = _signature(step)
    asks = signature is not None and "context" in signature.injects
    return step.updates_context or asks or bool(step.attachments)


def _fields_of(step: Step[Any, Any]) -> set[str]:
    """What the model that the step asks for has anyway."""
    signature = _signature(step)
    model = None if signature is None else signature.context_type
    return set(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else set()


def _signature(step: Step[Any, Any]) -> Signature | None:
    """None of a composite, a question, and an agent that cannot be called, which is another finding."""
    try:
        return None if step.is_complex or step.agent is None else step.signature
    except ConfigurationError:
        return None


def _word(place: str) -> str:
    return place.partition(".")[0]
