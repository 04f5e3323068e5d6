"""The run's context: a copy of its own for each attempt, and what it changed in it."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_client.protocol.errors import PausedException, PipelineAbortSignal
from flujo_worker.policies.feedback import feedback_of
from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["ContextPolicy"]


class ContextPolicy:
    """Builds the context for steps that have to do with it, and puts their output into it as they declare.

    A success commits what it changed. A failure changes nothing, but for the lists that the step keeps its feedback and
    its validators' findings in.

    Args:
        reader: Of payloads.
        registry: Which knows the model for steps that do not name one.
    """

    def __init__(self, reader: InputReader, registry: Registry) -> None:
        self._reader = reader
        self._registry = registry

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps that have to do with the context."""
        return call.step.wants_context

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `ContextError` if the context does not fit its model, or the output its field."""
        step = call.step
        model = self._registry.context_model_for(
            call.definition.context_type, call.attempt.task.context_model, step.function
        )
        call.context = self._reader.of(call.attempt).context(model)
        call.injected["context"] = call.context.model
        call.context.require(step.input_keys, f"Step '{step.name}' reads what no step before it has written:")
        try:
            output = await proceed(call)
        except (asyncio.CancelledError, PausedException, PipelineAbortSignal):
            raise
        except BaseException as error:
            self._keep(call, error)
            raise
        if step.persist_validation_to is not None and call.findings:
            call.context.append(step.persist_validation_to, call.findings)
        call.context.apply(step, output)
        call.context.require(step.output_keys, f"Step '{step.name}' has not written what it declares:")
        return output

    def _keep(self, call: StepCall, error: BaseException) -> None:
        """Note what a failure leaves in the context."""
        step, context = call.step, call.context
        if context is None or (step.persist_feedback_to is None and not (step.persist_validation_to and call.findings)):
            return
        kept = context.untouched()
        if step.persist_feedback_to is not None:
            kept.append(step.persist_feedback_to, [feedback_of(error)])
        if step.persist_validation_to is not None and call.findings:
            kept.append(step.persist_validation_to, call.findings)
        call.attempt.kept_context = kept.change()
