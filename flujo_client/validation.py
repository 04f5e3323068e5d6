"""Checks pipelines before anything is stored or queued; every fault at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from flujo_client.dsl.callables import lives_in_script, unqueueable_reason
from flujo_client.dsl.context_keys import unwritten_keys
from flujo_client.dsl.findings import ValidationFinding, ValidationReport
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.pipeline import UNNAMED, Pipeline
from flujo_client.protocol.errors import (
    ConfigurationError,
    HitlPolicyError,
    MissingAgentError,
    PipelineValidationError,
    UnqueueableError,
)
from flujo_client.protocol.pipeline_context import PipelineContext

__all__ = ["check_pipeline", "defined_in_script", "refuse_forbidden_pauses", "report_on"]


#: What is raised where everything that is wrong is of one kind; if not, `PipelineValidationError`.
_RAISED: Final[Mapping[str, type[ConfigurationError]]] = {
    "empty": ConfigurationError,
    "unnamed": ConfigurationError,
    "agent": ConfigurationError,
    "missing_agent": MissingAgentError,
    "unqueueable": UnqueueableError,
    "hitl_forbidden": HitlPolicyError,
}


def check_pipeline(pipeline: Pipeline, *, queued: bool, context_keys: Collection[str] | None = None) -> None:
    """Check a pipeline.

    Args:
        queued: Whether workers will run it, so that it must have a name, and every step one that they can import.
        context_keys: Fields of the context that its run begins with; None if they are not known.

    Raises:
        PipelineValidationError: Types do not fit, or several kinds of things are wrong: everything at once, each with its place.
        MissingAgentError, UnqueueableError, HitlPolicyError, ConfigurationError: The same, where everything is of one kind.
    """
    errors = [*pipeline.validate_graph().errors, *_unread(pipeline, context_keys), *_forbidden(pipeline)]
    if queued:
        errors += [*_unnamed(pipeline), *_unqueueable(pipeline)]
    if not errors:
        return
    kinds = {_RAISED.get(finding.rule, PipelineValidationError) for finding in errors}
    raised = kinds.pop() if len(kinds) == 1 else PipelineValidationError
    told = "; ".join(str(finding).removesuffix(".") for finding in errors)
    if raised is UnqueueableError:
        told = f"Pipeline '{pipeline.name}' cannot be queued: {told}"
    raise raised(f"{told}.", suggestion=errors[0].suggestion, faults=[str(finding) for finding in errors])


def report_on(pipeline: Pipeline) -> ValidationReport:
    """Everything that keeps a pipeline from being queued, or may be wrong with it, at once; see `flujo check`."""
    unread = [
        finding.model_copy(update={"severity": "warning"})
        for finding in _unread(pipeline, PipelineContext.model_fields)
    ]
    graph = pipeline.validate_graph().findings
    more = [*unread, *_unqueueable(pipeline), *_unnamed(pipeline), *_forbidden(pipeline)]
    return ValidationReport(findings=(*graph, *more))


def _unread(pipeline: Pipeline, known: Collection[str] | None) -> list[ValidationFinding]:
    return [] if known is None else list(unwritten_keys(pipeline, pipeline.name or UNNAMED, known))


def _unnamed(pipeline: Pipeline) -> list[ValidationFinding]:
    if pipeline.name is not None:
        return []
    text, remedy = "A pipeline without a name cannot be queued", 'Name it: Pipeline(name="digest", steps=[...]).'
    return [ValidationFinding(rule="unnamed", message=text, suggestion=remedy)]


def _forbidden(pipeline: Pipeline) -> list[ValidationFinding]:
    try:
        refuse_forbidden_pauses(pipeline)
    except HitlPolicyError as error:
        return [ValidationFinding(rule="hitl_forbidden", message=error.message, suggestion=error.suggestion)]
    return []


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
