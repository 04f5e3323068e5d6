"""`RunAwaitable`: what `Flujo.run_async` returns, to be awaited or iterated over, once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any

from flujo_client.protocol.outcomes import StepOutcome
from flujo_client.protocol.results import PipelineResult

__all__ = ["RunAwaitable"]


class RunAwaitable(Coroutine[Any, Any, PipelineResult]):
    """What `run_async` returns: await it for the result, or iterate over it for outcomes and then the result.

    It is a coroutine as well, so that it may stand wherever one does: `asyncio.create_task`, `TaskGroup.create_task`, `wait_for`.

    Args:
        start: Starts the run; called when the first item is asked for.
    """

    def __init__(self, start: Callable[[], AsyncIterator[StepOutcome | PipelineResult]]) -> None:
        self._start = start
        self._running: Coroutine[Any, Any, PipelineResult] | None = None

    def __await__(self) -> Generator[Any, None, PipelineResult]:
        return self._result().__await__()

    async def _result(self) -> PipelineResult:
        last: Any = None
        async for item in self._start():
            last = item
        assert isinstance(last, PipelineResult)
        return last

    def __aiter__(self) -> AsyncIterator[StepOutcome | PipelineResult]:
        return self._start()

    def send(self, value: Any) -> Any:
        """Go on with the run, as an event loop's task does."""
        return self._coroutine().send(value)

    def throw(
        self,
        kind: type[BaseException] | BaseException,
        error: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Any:
        """Raise an error where the run waits: how a task cancels it."""
        raised = kind if isinstance(kind, BaseException) else error if isinstance(error, BaseException) else kind()
        return self._coroutine().throw(raised.with_traceback(trace) if trace is not None else raised)

    def close(self) -> None:
        """End it where it waits; nothing if it was never started."""
        if self._running is not None:
            self._running.close()

    def _coroutine(self) -> Coroutine[Any, Any, PipelineResult]:
        if self._running is None:
            self._running = self._result()
        return self._running
