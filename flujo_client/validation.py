"""Checks pipelines before anything is stored or queued; every fault at once."""

from __future__ import annotations

import os

from flujo_client.dsl.callables import unqueueable_reason
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.pipeline import UNNAMED, Pipeline, fits, handed_on
from flujo_client.protocol.errors import ConfigurationError, HitlPolicyError, PipelineValidationError, UnqueueableError
from flujo_client.protocol.types import TypeValidator, describe_type

__all__ = ["check_pipeline", "refuse_forbidden_pauses"]


def check_pipeline(pipeline: Pipeline, validator: TypeValidator, *, queued: bool) -> None:
    """Check a pipeline.

    Args:
        validator: Says what steps declare.
        queued: Whether workers will run it, so that every step must have a name that they can import.

    Raises:
        PipelineValidationError: Neighbours do not fit, at any depth; lists what cannot be queued as well.
        UnqueueableError: Lists each callable that no worker could find, and how to name it.
        MissingAgentError: A step has nothing to run.
        ConfigurationError: It has no steps, or no name although it is queued; an agent cannot be found, or asks for what
            there is not.
    """
    if not pipeline.steps:
        raise ConfigurationError(f"Pipeline '{pipeline.name or UNNAMED}' has no steps.")
    if queued and pipeline.name is None:
        raise ConfigurationError(
            "A pipeline without a name cannot be queued.", suggestion='Name it: Pipeline(name="digest", steps=[...]).'
        )
    for leaf in pipeline.leaves():
        _ = leaf.call
    faults = _type_faults(pipeline, validator, pipeline.name or UNNAMED)
    unqueueable = _unqueueable(pipeline) if queued else []
    if faults:
        raise PipelineValidationError(
            "; ".join(faults + unqueueable) + ".",
            suggestion="Insert an adapter step or adjust types.",
            faults=faults + unqueueable,
        )
    if unqueueable:
        raise UnqueueableError(
            f"Pipeline '{pipeline.name}' cannot be queued: " + "; ".join(unqueueable) + ".",
            suggestion="In process, without a URL, it runs as it is.",
            faults=unqueueable,
        )


def refuse_forbidden_pauses(pipeline: Pipeline) -> None:
    """Refuse a pipeline that asks humans where FLUJO_ALLOW_HITL=0 says that nobody is there to answer.

    Raises:
        HitlPolicyError: It has such a step.
    """
    if os.environ.get("FLUJO_ALLOW_HITL") != "0":
        return
    asking = [part.name for part in pipeline.all_steps() if isinstance(part, HumanInTheLoopStep)]
    if asking:
        raise HitlPolicyError(
            f"Pipeline '{pipeline.name or UNNAMED}' asks humans in: {', '.join(asking)}, which FLUJO_ALLOW_HITL=0 forbids.",
            suggestion="Unset it where people may be asked.",
        )


def _unqueueable(pipeline: Pipeline) -> list[str]:
    """Each function that no worker could find, and how to name it."""
    functions = [(f"step '{leaf.name}'", leaf.agent) for leaf in pipeline.leaves()]
    functions += [
        (f"'{place}', {role}" if role.startswith("static") else f"step '{place}', {role}", function)
        for place, named in pipeline.named_functions()
        for role, function in named.items()
    ]
    reasons = [(place, unqueueable_reason(function)) for place, function in functions]
    return [f"{place}: {reason}" for place, reason in reasons if reason]


def _type_faults(pipeline: Pipeline, validator: TypeValidator, place: str) -> list[str]:
    faults = []
    for one, other in zip(pipeline.steps, pipeline.steps[1:], strict=False):
        expected = validator.get_step_input_type(other)
        output = handed_on(one) if one.in_background else validator.get_step_output_type(one)
        if not fits(one, other):
            faults.append(
                f"{place}: Type mismatch between steps '{one.name}' (returns {describe_type(output)}) and "
                f"'{other.name}' (expects {describe_type(expected)})"
            )
    for part in pipeline.steps:
        for name, inner in part.parts().items():
            faults += _type_faults(inner, validator, f"{place}/{part.name}/{name}")
    return faults
