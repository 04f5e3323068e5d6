"""The control step of a node that has failed for good: it calls the failure handlers, in order."""

from __future__ import annotations

from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["call_handlers"]


async def call_handlers(call: ControlCall) -> ControlEnd:
    """Call each handler, without arguments. What one raises ends the run, and those after it are not called."""
    for handler in call.functions:
        await call.call(handler)
    return ControlEnd()
