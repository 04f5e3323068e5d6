"""Checks pipelines before anything is stored or queued; every fault at once."""

from __future__ import annotations

import os
from typing import Any

from flujo_client.dsl.callables import lives_in_script, unqueueable_reason
from flujo_client.dsl.findings import ValidationFinding, ValidationReport
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.pipeline import UNNAMED, Pipeline
from flujo_client.protocol.errors import ConfigurationError, HitlPolicyError, PipelineValidationError, UnqueueableError

__all__ = ["check_pipeline", "defined_in_script", "refuse_forbidden_pauses", "report_on"]


def check_pipeline(pipeline: Pipeline, *, queued: bool) -> None:
    """Check a pipeline.

    Args:
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
    faults = [str(finding) for finding in pipeline.validate_graph().errors]
    unqueueable = [str(finding) for finding in _unqueueable(pipeline)] if queued else []
    if faults:
        raise PipelineValidationError(
            "; ".join(faults + unqueueable) + ".",
            suggestion="Insert an adapter step or adjust types.",
            faults=faults + unqueueable,
        )
    if unqueueable:
        raise UnqueueableError(
            f"Pipeline '{pipeline.name}' cannot be queued: " + "; ".join(unqueueable) + ".",
            suggestion="In process it runs as it is: without url=, and with FLUJO_URL unset.",
            faults=unqueueable,
        )


def report_on(pipeline: Pipeline) -> ValidationReport:
    """Everything that keeps a pipeline from being queued, or may be wrong with it, at once; see `flujo check`."""
    findings = [*pipeline.validate_graph().findings, *_unqueueable(pipeline)]
    if pipeline.name is None:
        text, remedy = "a pipeline without a name cannot be queued", 'Name it: Pipeline(name="digest", steps=[...]).'
        findings.append(ValidationFinding(rule="unnamed", message=text, suggestion=remedy))
    try:
        refuse_forbidden_pauses(pipeline)
    except HitlPolicyError as error:
        findings.append(ValidationFinding(rule="hitl_forbidden", message=error.message, suggestion=error.suggestion))
    return ValidationReport(findings=tuple(findings))


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


def defined_in_script(pipeline: Pipeline) -> list[str]:
    """Each function that the running script defines: a worker has it only if it imports the script as a module."""
    return [place for place, function in _functions(pipeline) if lives_in_script(function)]


def _unqueueable(pipeline: Pipeline) -> list[ValidationFinding]:
    """Each function that no worker could find, and how to name it."""
    reasons = [(place, unqueueable_reason(function)) for place, function in _functions(pipeline)]
    remedy = "In process it runs as it is: without url=, and with FLUJO_URL unset."
    return [
        ValidationFinding(rule="unqueueable", place=place, message=reason, suggestion=remedy)
        for place, reason in reasons
        if reason
    ]


def _functions(pipeline: Pipeline) -> list[tuple[str, Any]]:
    """Every function of a pipeline, and where it stands."""
    functions = [(f"step '{leaf.name}'", leaf.agent) for leaf in pipeline.leaves()]
    functions += [
        (f"'{place}', {role}" if role.startswith("static") else f"step '{place}', {role}", function)
        for place, named in pipeline.named_functions()
        for role, function in named.items()
    ]
    return functions
