"""The run's context: a copy of its own for each attempt, and what a success changed in it."""

from __future__ import annotations

from typing import Any

from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["ContextPolicy"]


class ContextPolicy:
    """Builds the context for steps that have to do with it, and puts their output into it as they declare.

    Args:
        reader: Of payloads.
        registry: Which knows the model for steps that do not name one.
    """

    def __init__(self, reader: InputReader, registry: Registry) -> None:
        self._reader = reader
        self._registry = registry

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `ContextError` if the context does not fit its model, or the output its field."""
        step = call.step
        if step.uses_context or step.updates_context or step.sink_to is not None:
            model = self._registry.context_model_for(call.definition.context_type, call.attempt.task.context_model)
            call.context = self._reader.of(call.attempt).context(model, call.attempt.ref.run_id)
            call.injected["context"] = call.context.model
        output = await proceed(call)
        if call.context is not None:
            call.context.apply(step, output)
        return output
