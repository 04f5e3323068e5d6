"""What results, contexts, budgets, types and errors are, told by the process that runs steps: docs/parity.md, sections 1.6 to 1.14."""

from __future__ import annotations

import math
import pickle
from typing import Any, Optional, Union

from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

import flujo_client
from flujo_client import (
    ConfigurationError,
    ContextInheritanceError,
    ContextReference,
    ControlFlowError,
    ExecutionError,
    FlujoError,
    HumanInteraction,
    PausedException,
    PipelineContext,
    PipelineRegistry,
    PipelineResult,
    PricingNotConfiguredError,
    Quota,
    QuotaExceededError,
    ResumeError,
    Step,
    StepInvocationError,
    StepResult,
    TypeMismatchError,
    TypeValidator,
    UsageEstimate,
    UsageLimitExceededError,
    UsageLimits,
    ValidationError,
    WorkflowState,
)
from tests.integration.deeds import deed, telling
from tests.integration.parity_pipelines import inc


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int = 0


def _quota() -> Quota:
    return Quota(1.0, 10)


# ---- results and contexts


@deed
def fields_of_a_step_result() -> list[Any]:
    made = StepResult(name="x", metadata_={"a": 1})
    return [StepResult(name="x").model_dump(), made.metadata]


@deed
def fields_of_a_pipeline_result() -> list[Any]:
    known = ("step_history", "total_cost_usd", "total_tokens", "final_pipeline_context", "trace_tree", "success")
    made = PipelineResult.model_validate({"step_history": [StepResult(name="x", output=7)], "of_ones_own": 5})
    return [{name: getattr(PipelineResult(), name) for name in known}, made.output, made.model_extra]


@deed
def fields_of_a_context() -> dict[str, Any]:
    return PipelineContext().model_dump()


@deed
def what_a_context_does_not_dump() -> list[Any]:
    context = PipelineContext(memory_store=[1])
    return [context.memory_store, "memory_store" in context.model_dump()]


@deed
def what_may_be_set_on_a_context() -> Any:
    context = PipelineContext()
    context.unheard_of = 5
    try:
        context.call_count = "many"  # type: ignore[assignment]  # that is the point
    except PydanticValidationError:
        return context.model_extra
    return "anything"


@deed
def a_scratchpad_given() -> Any:
    return PipelineContext.model_validate({"scratchpad": {}})


@deed
def a_scratchpad_set() -> Any:
    PipelineContext().scratchpad = {}


@deed
def what_of_a_reference_is_serialised() -> dict[str, Any]:
    made = ContextReference(provider_id="shelf", key="atlas")
    made.set("a thousand pages")
    return {"dumped": made.model_dump(), "held": made.get()}


# ---- budgets


@deed
def limits_below_zero() -> Any:
    return UsageLimits(total_tokens_limit=-1)


@deed
def costs_below_zero() -> Any:
    return UsageLimits(total_cost_usd_limit=-0.5)


@deed
def limits_and_estimates_of_nothing() -> list[Any]:
    limits, estimate = UsageLimits(), UsageEstimate()
    return [limits.total_cost_usd_limit, limits.total_tokens_limit, estimate.cost_usd, estimate.tokens]


@deed
def what_is_left() -> list[Any]:
    return [list(_quota().get_remaining()), str(Quota().get_remaining()[0]), Quota().get_remaining()[1]]


@deed
def what_would_be_enough() -> list[bool]:
    asked = [(1.0, 10), (1.1, 1), (0.1, 11), (-5, -5)]
    enough = [_quota().has_sufficient_quota(UsageEstimate(cost_usd=cost, tokens=tokens)) for cost, tokens in asked]
    return [*enough, Quota(math.inf, 1).has_sufficient_quota(UsageEstimate(cost_usd=1e6, tokens=1))]


@deed
def all_or_nothing() -> list[Any]:
    quota = _quota()
    return [quota.reserve(UsageEstimate(cost_usd=0.5, tokens=11)), list(quota.get_remaining())]


@deed
def just_what_is_left() -> list[Any]:
    quota = _quota()
    taken = quota.reserve(UsageEstimate(cost_usd=1.0, tokens=10))
    return [taken, list(quota.get_remaining()), quota.reserve(UsageEstimate())]


@deed
def from_what_has_no_end() -> list[Any]:
    quota = Quota(math.inf, 10)
    return [quota.reserve(UsageEstimate(cost_usd=1e6, tokens=4)), [str(part) for part in quota.get_remaining()]]


@deed
def less_than_was_reserved() -> list[Any]:
    quota = _quota()
    quota.reserve(UsageEstimate(cost_usd=0.4, tokens=4))
    quota.reclaim(UsageEstimate(cost_usd=0.4, tokens=4), UsageEstimate(cost_usd=0.1, tokens=1))
    less = list(quota.get_remaining())
    quota.reclaim(UsageEstimate(), UsageEstimate(cost_usd=0.2, tokens=2))
    return [less, list(quota.get_remaining())]


@deed
def more_than_is_left() -> list[Any]:
    quota = _quota()
    quota.reserve(UsageEstimate(cost_usd=0.4, tokens=4))
    try:
        quota.reclaim(UsageEstimate(cost_usd=0.4, tokens=4), UsageEstimate(cost_usd=3.0, tokens=5))
    except QuotaExceededError as error:
        told = [error.remaining_cost_usd, error.remaining_tokens, error.extra_cost_usd, error.extra_tokens]
        return [list(quota.get_remaining()), told]
    return []


@deed
def put_back() -> list[Any]:
    quota, endless = _quota(), Quota(math.inf, 1)
    quota.refund(UsageEstimate(cost_usd=0.5, tokens=-3))
    endless.refund(UsageEstimate(cost_usd=0.5, tokens=1))
    return [list(quota.get_remaining()), [str(part) for part in endless.get_remaining()]]


@deed
def split_in_three() -> list[Any]:
    quota = _quota()
    parts = quota.split(3)
    costs = [part.get_remaining()[0] for part in parts]
    return [[part.get_remaining()[1] for part in parts], round(sum(costs), 9), list(quota.get_remaining())]


@deed
def split_what_has_no_end() -> list[str]:
    quota = Quota(math.inf, 4)
    return [str(part.get_remaining()[0]) for part in (*quota.split(2), quota)]


# ---- types


def _fits(output: Any, annotation: Any) -> bool:
    async def give(data: Any) -> Any:
        return data

    async def take(data: Any) -> Any:
        return data

    take.__annotations__["data"] = annotation
    try:
        TypeValidator().validate_step_output(Step.from_callable(give), output, Step.from_callable(take))
    except TypeMismatchError:
        return False
    return True


@deed
def anything_fits_what_declares_nothing() -> list[bool]:
    return [_fits(output, kind) for kind in (Any, object) for output in (1, "a", None)]


@deed
def one_member_of_a_union_is_enough() -> list[bool]:
    either = Union[int, str]  # noqa: UP007 - this spelling too
    return [_fits(1, int | str), _fits("a", either), _fits([1], int | str)]


@deed
def none_fits_where_it_is_declared() -> list[bool]:
    spelled = Optional[int]  # noqa: UP045 - this spelling too
    return [_fits(None, kind) for kind in (int | None, spelled, Any, int, list[int])]


@deed
def a_subclass_fits_and_no_other_class() -> list[bool]:
    return [_fits(Dog(name="rex"), Animal), _fits(True, int), _fits("a", int), _fits(5, Animal)]


@deed
def generics_fit_by_what_they_hold() -> list[bool]:
    fitting = [
        ([1], list),
        (["a"], list[str]),
        ({"a": 1}, dict),
        ({"a": 1}, dict[str, int]),
        ((1, "a"), tuple[int, str]),
    ]
    odd = [({"a": 1}, list[str]), ([1], dict), (["a"], list[int]), ({"a": "b"}, dict[str, int])]
    return [_fits(output, kind) for output, kind in [*fitting, *odd]]


@deed
def without_a_next_step() -> Any:
    return TypeValidator().validate_step_output(inc, "text", None)


# ---- state


@deed
def fields_of_a_workflow_state() -> list[str]:
    return sorted(WorkflowState.model_fields)


@deed
def fields_of_an_answer() -> list[str]:
    return list(HumanInteraction.model_fields)


@deed
def versions_of_a_pipeline() -> list[Any]:
    registry = PipelineRegistry()
    for version in ("1.2", "1.10", "1.9"):
        registry.register(inc >> inc, "twice", version)
    latest = registry.get_latest("twice")
    assert latest is not None
    return [
        registry.get_latest_version("twice"),
        latest is registry.get("twice", "1.10"),
        registry.get("twice", "9"),
        registry.get_latest("nobody"),
    ]


@deed
def a_version_that_is_none() -> Any:
    PipelineRegistry().register(inc >> inc, "twice", "newest")


# ---- errors


@deed
def what_an_error_says() -> list[Any]:
    cause = ValueError("glass")
    error = FlujoError("It broke.", suggestion="Mend it.", code="E7", cause=cause)
    return [error.message, error.suggestion, error.code, error.cause is cause]


def _below(root: type[FlujoError]) -> list[str]:
    return sorted(
        name for name in flujo_client.__all__ if root in getattr(getattr(flujo_client, name), "__bases__", ())
    )


@deed
def errors_of_configuration() -> list[str]:
    return _below(ConfigurationError)


@deed
def errors_of_execution() -> list[str]:
    return _below(ExecutionError)


@deed
def errors_of_control_flow() -> list[str]:
    return _below(ControlFlowError)


@deed
def errors_of_contexts() -> list[str]:
    return _below(flujo_client.ContextError)


@deed
def errors_of_validation() -> list[str]:
    return _below(ValidationError)


@deed
def errors_that_stand_apart() -> list[bool]:
    return [issubclass(QuotaExceededError, FlujoError), issubclass(flujo_client.GranularResumeError, ResumeError)]


@deed
def what_a_pause_says() -> list[Any]:
    return [PausedException("sure?").message, str(PausedException("sure?"))]


@deed
def what_a_limit_says() -> list[Any]:
    result = PipelineResult(success=False)
    error = UsageLimitExceededError("Insufficient quota", result)
    return [str(error), error.result is result, UsageLimitExceededError("x").result]


@deed
def pickled_errors() -> list[list[Any]]:
    made = [
        PricingNotConfiguredError("openai", "gpt-9"),
        ContextInheritanceError(["a"], ["b"], "Needy"),
        StepInvocationError("inc"),
        PausedException("sure?"),
        FlujoError("It broke.", suggestion="Mend it.", code="E7"),
    ]
    back = [pickle.loads(pickle.dumps(error)) for error in made]
    return [
        [type(error).__name__, str(error) == str(other), error.data] for error, other in zip(back, made, strict=True)
    ]


about_values = telling.named("about_values")
