"""How long an attempt may take."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["TimeoutPolicy"]


class TimeoutPolicy:
    """Ends an attempt after the step's timeout; without one, its lease does."""

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with a timeout."""
        return call.step.timeout_ms is not None

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            TimeoutError: The time is over. An async function was cancelled; a sync one runs on in its thread (`SyncBodies`).
        """
        assert call.step.timeout_ms is not None
        limit_s = call.step.timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await proceed(call)
        except TimeoutError as error:
            if not limit.expired():  # the body's own
                raise
            raise TimeoutError(f"no result within {limit_s:g} s, the step's timeout_s") from error
