"""Calls the user's function: with what it asks for, awaited, in a thread, or chunk by chunk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.step_run import StepRun
from flujo_worker.attempt import Attempt
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
        failpoint("before", "body")
        output = await self._call(call)
        failpoint("after", "body")
        return output

    async def _call(self, call: StepCall) -> Any:
        definition = call.definition
        wanted = {name: call.injected[name] for name in definition.injects if call.injected.get(name) is not None}
        if call.step.streams and definition.stream_call is not None:
            call.attempt.begin()
            return await _streamed(definition.stream_call(call.value, **wanted), call.injected["run"])
        if definition.is_async:
            call.attempt.begin()
            return await definition.call(call.value, **wanted)
        if self._live and call.step.timeout_ms is None:
            call.attempt.begin()
            return definition.call(call.value, **wanted)
        return await self._bodies.run(call.attempt, _begun_there(call.attempt, definition.call), call.value, **wanted)


def _begun_there(attempt: Attempt, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that begins its attempt itself, in the thread to which it goes."""

    def begin_and_call(*arguments: Any, **named: Any) -> Any:
        attempt.begin()
        return function(*arguments, **named)

    return begin_and_call


async def _streamed(chunks: AsyncIterator[Any], run: StepRun) -> Any:
    """Emit what an async generator yields, and return it: text or bytes joined, anything else as the text of a list."""
    seen: list[Any] = []
    async for chunk in chunks:
        seen.append(chunk)
        await run.emit(chunk)
    for kind in (str, bytes):
        if all(isinstance(chunk, kind) for chunk in seen):
            return kind().join(seen)
    return str(seen)
