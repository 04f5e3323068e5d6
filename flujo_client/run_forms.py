"""`RunForms`: the forms in which a caller may have what a run gives: awaited, iterated over, as outcomes, as chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from flujo_client.awaitable import RunAwaitable
from flujo_client.protocol.outcomes import Chunk, StepOutcome, to_outcome
from flujo_client.protocol.results import PipelineResult

__all__ = ["RunForms"]


class RunForms(ABC):
    """The part of `Flujo` that makes every form of the one stream of a run's outcomes."""

    @abstractmethod
    def _outcomes(
        self, value: Any, run_id: str | None, data: dict[str, Any] | None
    ) -> AsyncGenerator[StepOutcome | PipelineResult]:
        """Run once: what is to be told on the way, then the result."""

    @abstractmethod
    async def aclose(self) -> None:
        """Disconnect."""

    def run_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> RunAwaitable:
        """Run the pipeline: `await` it for the result, or iterate for outcomes and then the result. Raises as `run`."""
        return RunAwaitable(lambda: self._outcomes(value, run_id, initial_context_data))

    async def stream_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[Any]:
        """The data of every chunk while steps run, then the result."""
        async with aclosing(self._outcomes(value, run_id, initial_context_data)) as items:
            async for item in items:
                if isinstance(item, Chunk):
                    yield item.data
                elif isinstance(item, PipelineResult):
                    yield item

    async def run_outcomes_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome]:
        """Outcomes only: chunks while steps run, then the one that ends the run: `Success`, `Failure`, `Paused` or `Aborted`.

        Limits, mismatched types and cancellation raise, as in `run`. Disconnects after the last outcome.
        """
        try:
            async with aclosing(self._outcomes(value, run_id, initial_context_data)) as items:
                async for item in items:
                    yield to_outcome(item) if isinstance(item, PipelineResult) else item
        finally:
            await self.aclose()

    def run_outcomes(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome]:
        """The same as `run_outcomes_async`."""
        return self.run_outcomes_async(value, run_id=run_id, initial_context_data=initial_context_data)

    def run_stream(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome]:
        """The same as `run_outcomes_async`."""
        return self.run_outcomes_async(value, run_id=run_id, initial_context_data=initial_context_data)

    async def run_result_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> PipelineResult:
        """Run the pipeline and return its result. Raises as `run`."""
        return await self.run_async(value, run_id=run_id, initial_context_data=initial_context_data)

    def run_with_events(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome | PipelineResult]:
        """The same items as iterating over `run_async`."""
        return self._outcomes(value, run_id, initial_context_data)
