"""Processors: what shapes the input before the step's function and its output after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flujo_worker.policies.calling import UserCalls
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["OutputProcessorPolicy", "PromptProcessorPolicy"]


class PromptProcessorPolicy:
    """Passes the input through the step's prompt processors, each given what the one before made.

    Args:
        calls: Of users' functions.
    """

    def __init__(self, calls: UserCalls) -> None:
        self._calls = calls

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with such a processor."""
        return bool(call.attachments.prompt_processors)

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises whatever a processor raises."""
        call.value = await _through(self._calls, call, call.attachments.prompt_processors, call.value)
        return await proceed(call)


class OutputProcessorPolicy:
    """Passes the output through the step's output processors, each given what the one before made.

    Args:
        calls: Of users' functions.
    """

    def __init__(self, calls: UserCalls) -> None:
        self._calls = calls

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with such a processor."""
        return bool(call.attachments.output_processors)

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises whatever a processor raises."""
        output = await proceed(call)
        return await _through(self._calls, call, call.attachments.output_processors, output)


async def _through(calls: UserCalls, call: StepCall, processors: Iterable[Any], data: Any) -> Any:
    for processor in processors:
        function = getattr(processor, "process", processor)
        data = await calls.call(call.attempt, function, data, call.context_model)
    return data
