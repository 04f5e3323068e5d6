"""Calls the user's function: with what it asks for, awaited or in a thread, and within its timeout."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_client.protocol.types import StepDefinition

__all__ = ["call_agent"]


async def call_agent(
    step: StepDefinition, value: Any, injectable: dict[str, Any], timeout_s: float | None, *, live: bool = False
) -> Any:
    """Call a step's function.

    Args:
        step: Whose function.
        value: Its input.
        injectable: What it may ask for by keyword; only what it does ask for is passed.
        timeout_s: Seconds; None for no limit but the lease's.
        live: A sync function runs on the loop itself, as in-process code expects, unless a timeout must interrupt it.

    Returns:
        What the function returned, or the chunks of an async generator joined (str, bytes) or as a list.

    Raises:
        TimeoutError: The time is over. An async function was cancelled; a sync one is left to itself.
        Exception: Whatever the function raises.
    """
    wanted = {name: injectable[name] for name in step.injects if injectable.get(name) is not None}
    async with asyncio.timeout(timeout_s):
        if step.is_async:
            return await step.call(value, **wanted)
        if live and timeout_s is None:
            return step.call(value, **wanted)
        return await asyncio.to_thread(step.call, value, **wanted)
