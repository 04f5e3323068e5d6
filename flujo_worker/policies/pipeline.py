"""Control steps of sub-pipelines: the context that the body starts with, and its result."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.errors import ContextError, ContextInheritanceError
from flujo_client.protocol.pipeline_context import STEP_OUTPUTS, PipelineContext, stored_fields
from flujo_client.protocol.quota import COST, TOKENS, to_nano_usd
from flujo_client.protocol.results import PipelineResult, StepResult
from flujo_worker.policies.control import ControlCall, ControlEnd
from flujo_worker.policies.references import complete_result

__all__ = ["make_result", "open_context"]


async def open_context(call: ControlCall) -> ControlEnd:
    """Build the body's context, of the model that the sub-pipeline names.

    Raises:
        ContextInheritanceError: The context around it lacks fields that the model needs.
        ContextError: It has them, but they do not fit.
    """
    arguments = call.task.arguments
    given: dict[str, Any] = {**arguments["data"], **(call.base if arguments["inherit"] else {})}
    return ControlEnd(context={**given, **stored_fields(_model_of(call, given))})


async def make_result(call: ControlCall) -> ControlEnd:
    """Put the body's `PipelineResult` together."""
    context = _model_of(call, call.branches["body"])
    if isinstance(context, PipelineContext):  # it leaves the step, and cannot ask for anything there
        context.step_outputs = {**call.outputs_of("body")(), **call.branches["body"].get(STEP_OUTPUTS, {})}
    history = [StepResult.model_validate(complete_result(part, call.value)) for part in call.task.arguments["history"]]
    cost_usd, tokens = sum(part.cost_usd for part in history), sum(part.token_counts for part in history)
    result = PipelineResult(
        step_history=history,
        total_cost_usd=cost_usd,
        total_tokens=tokens,
        final_pipeline_context=context,
        run_id=call.run_id,
        usage={meter: amount for meter, amount in ((COST, to_nano_usd(cost_usd)), (TOKENS, tokens)) if amount},
    )
    return ControlEnd(outputs=(result,))


def _model_of(call: ControlCall, data: dict[str, Any]) -> Any:
    """The body's context as the model that the sub-pipeline names, or as the one around it."""
    if "context_model" not in call.functions:
        return call.model_of(data)
    model = call.functions["context_model"].call
    name = getattr(model, "__name__", "")
    try:
        return model(**data)
    except PydanticValidationError as error:
        faults = error.errors(include_url=False)
        missing = [".".join(map(str, fault["loc"])) for fault in faults if fault["type"] == "missing"]
        if missing:
            raise ContextInheritanceError(missing, data, name) from error
        place, message = faults[0]["loc"], faults[0]["msg"]
        raise ContextError(f"The context of {call.task.step.name} does not fit {name}: {place}: {message}.") from error
