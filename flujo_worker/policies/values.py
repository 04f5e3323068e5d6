"""What goes into a step and comes out of it, as its annotations declare it."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.expressions import render
from flujo_client.protocol.types import TypeValidator
from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["InputPolicy", "OutputPolicy"]


class InputPolicy:
    """Makes the input: the output of the step before as this one declares it, or what its own `input` says.

    Args:
        reader: Of payloads.
        validator: Of values.
    """

    def __init__(self, reader: InputReader, validator: TypeValidator) -> None:
        self._reader = reader
        self._validator = validator

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            TypeMismatchError: The input is not what the step declares.
            TemplateResolutionError: A template of the step's own input names what is not there.
        """
        inputs = self._reader.of(call.attempt)
        if call.step.template is None:
            call.value = inputs.for_step(call.definition)
        else:
            facts = {
                "context": call.context_model,
                "previous_step": inputs.as_produced(),
                "steps": {name: _Output(value) for name, value in inputs.earlier_outputs().items()},
            }
            declared = self._validator.get_step_input_type(call.definition)
            as_text = self._validator.is_anything(declared) or declared is str
            rendered = render(call.step.template, facts, as_text=as_text)
            call.value = self._validator.accept_input(call.definition, rendered)
        return await proceed(call)


class _Output:
    """An earlier step's output in a template: `steps.name`, or `steps.name.output` for a part of it."""

    def __init__(self, output: Any) -> None:
        self.output = self.result = self.value = output

    def __str__(self) -> str:
        return str(self.output)


class OutputPolicy:
    """Checks what the step's function returned.

    Args:
        validator: Of values.
    """

    def __init__(self, validator: TypeValidator) -> None:
        self._validator = validator

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `TypeMismatchError` if the output is not what the step declares."""
        output = await proceed(call)
        self._validator.check_own_output(call.definition, output)
        return output
