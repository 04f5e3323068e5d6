"""Checks pipelines before anything is stored or queued; every fault at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from flujo_client.dsl.cache import CacheStep, InMemoryCache
from flujo_client.dsl.callables import lives_in_script, unqueueable_reason
from flujo_client.dsl.context_keys import unwritten_keys
from flujo_client.dsl.findings import ValidationFinding, ValidationReport
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.pipeline import UNNAMED, Pipeline
from flujo_client.protocol.errors import (
    ConfigurationError,
    FlujoError,
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
    if errors:
        raise _error_of(pipeline, errors)


def _error_of(pipeline: Pipeline, errors: Sequence[ValidationFinding]) -> FlujoError:
    """What is raised for findings: each with its place and its remedy, as `flujo check` shows them."""
    kinds = {_RAISED.get(finding.rule, PipelineValidationError) for finding in errors}
    raised = kinds.pop() if len(kinds) == 1 else PipelineValidationError
    name = pipeline.name or UNNAMED
    faults = [" ".join(filter(None, (f"{str(each).removesuffix('.')}.", each.suggestion))) for each in errors]
    if len(errors) == 1 and raised is not UnqueueableError:
        return raised(f"{str(errors[0]).removesuffix('.')}.", suggestion=errors[0].suggestion, faults=faults)
    told = "cannot be queued" if raised is UnqueueableError else f"has {len(errors)} faults"
    return raised("\n  ".join((f"Pipeline '{name}' {told}:", *faults)), faults=faults)


def report_on(pipeline: Pipeline) -> ValidationReport:
    """Everything that keeps a pipeline from being queued, or may be wrong with it, at once; see `flujo check`."""
    unread = [
        finding.model_copy(update={"severity": "warning"})
        for finding in _unread(pipeline, PipelineContext.model_fields)
    ]
    graph = pipeline.validate_graph().findings
    more = [*unread, *_unshared_caches(pipeline), *_unqueueable(pipeline), *_unnamed(pipeline), *_forbidden(pipeline)]
    return ValidationReport(findings=(*graph, *more))


def _unread(pipeline: Pipeline, known: Collection[str] | None) -> list[ValidationFinding]:
    return [] if known is None else list(unwritten_keys(pipeline, pipeline.name or UNNAMED, known))


def _unshared_caches(pipeline: Pipeline) -> list[ValidationFinding]:
    """Caches that each worker process has for itself."""
    text = "its InMemoryCache is another one in each worker process: what one has made is no hit for the others"
    remedy = "Leave cache_backend out: the results are kept in Redis then, for all workers."
    return [
        ValidationFinding(rule="unshared_cache", severity="warning", place=place, message=text, suggestion=remedy)
        for place, part in pipeline.placed_steps(pipeline.name or UNNAMED)
        if isinstance(part, CacheStep) and isinstance(part.cache_backend, InMemoryCache)
    ]


def _unnamed(pipeline: Pipeline) -> list[ValidationFinding]:
    if pipeline.name is not None:
        return []
    text, remedy = "A pipeline without a name cannot be queued", 'Name it: Pipeline(name="digest", steps=[...]).'
    return [ValidationFinding(rule="unnamed", place=UNNAMED, message=text, suggestion=remedy)]


def _forbidden(pipeline: Pipeline) -> list[ValidationFinding]:
    """The steps that ask humans, where FLUJO_ALLOW_HITL=0 says that nobody is there to answer."""
    if os.environ.get("FLUJO_ALLOW_HITL") != "0":
        return []
    text, remedy = "it asks a human, which FLUJO_ALLOW_HITL=0 forbids", "Unset it where people may be asked."
    return [
        ValidationFinding(rule="hitl_forbidden", place=place, message=text, suggestion=remedy)
        for place, part in pipeline.placed_steps(pipeline.name or UNNAMED)
        if isinstance(part, HumanInTheLoopStep)
    ]


def refuse_forbidden_pauses(pipeline: Pipeline) -> None:
    """Refuse a pipeline that asks humans where nobody is there to answer.

    Raises:
        HitlPolicyError: It has such steps.
    """
    if errors := _forbidden(pipeline):
        raise _error_of(pipeline, errors)


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
    place = pipeline.name or UNNAMED
    functions: list[tuple[str, Any]] = [(f"{place}, {role}", rule) for role, rule in pipeline.rules().items()]
    for at, part in pipeline.placed_steps(place):
        if not part.is_complex:
            functions.append((at, part.agent))
        functions += [(f"{at}, {role}", function) for role, function in part.controls().items()]
        functions += [(f"{at}, failure handler {n}", call) for n, call in enumerate(part.failure_handlers, 1)]
        for name, inner in part.parts().items():
            functions += [(f"{at}/{name}, {role}", rule) for role, rule in inner.rules().items()]
    return functions
