"""Tells hooks that an attempt begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from flujo_client.protocol.results import HookPayload, PreStepPayload
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["PreStepHookPolicy"]


class PreStepHookPolicy:
    """Dispatches `pre_step`, once the input and the context are known.

    Args:
        dispatch: The coordinator's.
    """

    def __init__(self, dispatch: Callable[[Callable[[], HookPayload]], Awaitable[None]]) -> None:
        self._dispatch = dispatch

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`."""
        attempt, ref = call.attempt, call.attempt.ref
        left_usd, left_tokens = attempt.quota_before
        await self._dispatch(
            lambda: PreStepPayload(
                run_id=ref.run_id,
                path=ref.path,
                step=call.definition,
                step_input=call.value,
                attempt_number=ref.attempt,
                context=call.injected.get("context"),
                resources=call.injected.get("resources"),
                quota_before_usd=left_usd,
                quota_before_tokens=left_tokens,
            )
        )
        return await proceed(call)
