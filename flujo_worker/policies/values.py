"""What goes into a step and comes out of it, as its annotations declare it."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.types import TypeValidator
from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["InputPolicy", "OutputPolicy"]


class InputPolicy:
    """Reads the input from the payloads of the attempt.

    Args:
        reader: Of payloads.
    """

    def __init__(self, reader: InputReader) -> None:
        self._reader = reader

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `TypeMismatchError` if the input is not what the step declares."""
        call.value = self._reader.of(call.attempt).for_step(call.definition)
        return await proceed(call)


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
