"""Calls the user's function: with what it asks for, awaited or in a thread."""

from __future__ import annotations

from typing import Any

from flujo_worker.bodies import SyncBodies
from flujo_worker.policies.stack import StepCall

__all__ = ["AgentCall"]


class AgentCall:
    """The innermost of an attempt.

    Args:
        bodies: Runs sync functions.
        live: The in-process mode: a sync function runs on the loop itself, as such code expects, unless a timeout must
            interrupt it.
    """

    def __init__(self, bodies: SyncBodies, *, live: bool) -> None:
        self._bodies = bodies
        self._live = live

    async def __call__(self, call: StepCall) -> Any:
        """Call the step's function. Raises whatever it raises."""
        definition = call.definition
        wanted = {name: call.injected[name] for name in definition.injects if call.injected.get(name) is not None}
        if definition.is_async:
            return await definition.call(call.value, **wanted)
        if self._live and call.step.timeout_ms is None:
            return definition.call(call.value, **wanted)
        return await self._bodies.run(call.attempt, definition.call, call.value, **wanted)
