"""A step of a function as a leaf of a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flujo_client.dsl.estimates import is_unbilled, read_estimate
from flujo_client.protocol.expressions import names_in_steps
from flujo_client.protocol.leaves import check_estimates
from flujo_client.protocol.spec import RetrySpec, StepSpec
from flujo_client.protocol.types import describe_type

if TYPE_CHECKING:
    from flujo_client.dsl.pipeline import Step

__all__ = ["leaf_of"]


def leaf_of(step: Step[Any, Any]) -> StepSpec:
    """The spec of a step."""
    config = step.config
    settings = {name: getattr(config, name) for name in ("temperature", "top_k", "top_p")}
    rules = tuple(rule for rule in step.static_invariants if isinstance(rule, str))
    limits = step.usage_limits
    leaf = StepSpec(
        name=step.name,
        function=step.function,
        queue=config.queue,
        retry=_retries(step),
        timeout_ms=None if config.timeout_s is None else max(1, round(config.timeout_s * 1000)),
        estimate=read_estimate(step),
        estimate_quantile=config.estimate_quantile,
        unbilled=is_unbilled(step),
        usage_limits={} if limits is None else limits.amounts(),
        is_async=step.is_async,
        streams=step.signature.only_streams,
        uses_context=_uses_context(step),
        input_keys=tuple(step.input_keys),
        output_keys=tuple(step.output_keys),
        updates_context=step.updates_context,
        validate_fields=step.validate_fields,
        sink_to=step.sink_to,
        persist_feedback_to=step.persist_feedback_to_context,
        persist_validation_to=step.persist_validation_results_to,
        template=step.template,
        reads=tuple(sorted(names_in_steps(step.template))),
        invariants=rules,
        settings={name: value for name, value in settings.items() if value is not None},
        strict=bool(step.meta.get("strict_validation")),
        on_worker_lost=config.on_worker_lost,
        lost_spend=config.lost_spend,
        accounts=config.accounts,
        input_type=describe_type(step.input_type),
        output_type=describe_type(step.output_type),
        turn=step.turn,
        preserve_fallback_diagnostics=config.preserve_fallback_diagnostics,
        fallback=None if step.fallback_step is None else leaf_of(step.fallback_step),
    )
    if limits is not None and limits.strict_estimates:
        check_estimates([leaf], ())
    return leaf


def _uses_context(step: Step[Any, Any]) -> bool:
    ruled = bool(step.attachments) or any(isinstance(rule, str) for rule in step.static_invariants)
    return ruled or "context" in step.injects or step.template is not None or step.turn is not None


def _retries(step: Step[Any, Any]) -> RetrySpec:
    """The terms of another attempt. What plugins refuse is not tried again, unless somebody is there to fall back on."""
    config = step.config
    return RetrySpec(
        retries=0 if step.plugins and step.fallback_step is None else config.max_retries,
        base_ms=round(config.backoff_s * 1000),
        most_ms=round(config.backoff_max_s * 1000),
        jitter=config.jitter,
        never=tuple(cls.__name__ for cls in config.never_retry),
    )
