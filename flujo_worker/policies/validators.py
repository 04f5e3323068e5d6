"""Validators: they say whether a step's final output is valid."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.attachments import ValidationResult
from flujo_client.protocol.errors import OutputRejectedError
from flujo_worker.policies.calling import UserCalls
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["ValidatorPolicy"]


class ValidatorPolicy:
    """Asks every validator of a step, and fails the step if one of them is not content.

    Args:
        calls: Of users' functions.
    """

    def __init__(self, calls: UserCalls) -> None:
        self._calls = calls

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with a validator."""
        return bool(call.attachments.validators)

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            OutputRejectedError: Not tried again; the output stands in the result, but for a strict step.
        """
        output = await proceed(call)
        results = [await self._ask(call, validator, output) for validator in call.attachments.validators]
        if results:
            call.findings += [result.model_dump() for result in results]
        refusals = [
            f"{result.validator_name}: {result.feedback or 'the output is not valid'}"
            for result in results
            if not result.is_valid
        ]
        if refusals:
            if not call.step.strict:
                call.attempt.kept_output = (output,)
            raise OutputRejectedError(f"Validation failed: {'; '.join(refusals)}")
        return output

    async def _ask(self, call: StepCall, validator: Any, output: Any) -> ValidationResult:
        function = getattr(validator, "validate", validator)
        name = getattr(validator, "name", None) or getattr(validator, "__name__", type(validator).__name__)
        answer = await self._calls.call(call.attempt, function, output, context=call.context_model)
        if isinstance(answer, ValidationResult):
            return answer if answer.validator_name else answer.model_copy(update={"validator_name": name})
        valid, feedback = answer if isinstance(answer, tuple) else (bool(answer), None)
        return ValidationResult(is_valid=valid, feedback=feedback, validator_name=name)
