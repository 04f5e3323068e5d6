"""`Flujo`: runs a pipeline, in this process or on a fleet; the class that existing code uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any, Self
from uuid import uuid4

from opentelemetry import trace
from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.engine import QueuedEngine
from flujo_client.events import RunReader, raise_for
from flujo_client.execution.graph import step_at
from flujo_client.observer import HookObserver
from flujo_client.protocol.context import snapshot_of
from flujo_client.protocol.errors import ConfigurationError, PipelineContextInitializationError
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.results import (
    Chunk,
    Failure,
    PipelineContext,
    PipelineResult,
    PreRunPayload,
    StepOutcome,
    Success,
)
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.tracing import traceparent_of
from flujo_client.protocol.types import TypeValidator
from flujo_client.validation import check_pipeline
from flujo_worker.embedded import EmbeddedEngine
from flujo_worker.registry import Registry

__all__ = ["Flujo", "RunAwaitable"]

#: How long a caller waits for its own manager's word before it looks at the stored run, in case the pool took it over.
_LOOK_EVERY_S = 5.0


class RunAwaitable:
    """What `run_async` returns: await it for the result, or iterate over it for outcomes and then the result."""

    def __init__(self, start: Callable[[], AsyncIterator[StepOutcome | PipelineResult]]) -> None:
        self._start = start

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


class Flujo:
    """Runs one pipeline, any number of times.

    Without a URL it runs in this process, with the same semantics, nothing installed, and lambdas allowed. With a URL, or
    FLUJO_URL, every step becomes a queued task of the fleet that serves it.

    Args:
        pipeline: A pipeline, or a single step.
        url: Redis that holds the runs; default: FLUJO_URL.
        context_model: Of the runs' context; default: `PipelineContext`.
        initial_context_data: For the context model; a run may add to it.
        resources: Handed to steps that ask for `resources`; in process only, workers have their own.
        usage_limits: Budget of every run.
        hooks: Called in this process: pre_run, pre_step, post_step, on_step_failure, post_run.
        pipeline_name: Instead of the pipeline's own name.
        settings: Instead of the FLUJO_* variables.
    """

    def __init__(
        self,
        pipeline: Pipeline | Step[Any, Any],
        *,
        url: str | None = None,
        context_model: type[BaseModel] | None = None,
        initial_context_data: dict[str, Any] | None = None,
        resources: Any = None,
        usage_limits: UsageLimits | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
        pipeline_name: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline.from_step(pipeline)
        if pipeline_name is not None:
            self.pipeline = self.pipeline.named(pipeline_name)
        self._settings = settings or Settings.from_env()
        if url is not None:
            self._settings = self._settings.model_copy(update={"url": url})
        self._context_model = context_model or PipelineContext
        self._wants_context = context_model is not None or initial_context_data is not None
        self._context_data = initial_context_data or {}
        self._resources = resources
        self._limits = usage_limits
        self._observer = HookObserver(
            HookDispatcher([*self.pipeline.hooks, *hooks]),
            HookDispatcher(self.pipeline.on_finish),
            resources,
        )
        self._opening: asyncio.Task[QueuedEngine | EmbeddedEngine] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued(self) -> bool:
        """Whether steps go to a fleet."""
        return self._settings.url is not None

    def run(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> PipelineResult:
        """Run the pipeline and return its result. A failed step raises nothing; see `PipelineResult.success`.

        Args:
            value: The first step's input.
            run_id: Makes the call idempotent: a run of this id that has ended gives its stored result.
            initial_context_data: For the context model, over that of the constructor.

        Raises:
            TypeError: There is a running event loop: use `run_async`.
            UsageLimitExceededError: The budget could not pay; `.result` has what was done.
            TypeMismatchError, ConfigurationError: As their names say.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._run_once(value, run_id, initial_context_data))
        raise TypeError("Flujo.run() cannot be called from a running event loop; use `await flujo.run_async(...)`.")

    async def _run_once(self, value: Any, run_id: str | None, data: dict[str, Any] | None) -> PipelineResult:
        async with self:
            return await self.run_async(value, run_id=run_id, initial_context_data=data)

    def run_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> RunAwaitable:
        """Run the pipeline: `await` it for the result, or iterate for outcomes and then the result. Raises as `run`."""
        return RunAwaitable(lambda: self._outcomes(value, run_id, initial_context_data, chunks=True))

    async def stream_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[Any]:
        """The data of every chunk while steps run, then the result."""
        async for item in self._outcomes(value, run_id, initial_context_data, chunks=True):
            if isinstance(item, Chunk):
                yield item.data
            elif isinstance(item, PipelineResult):
                yield item

    async def run_outcomes_async(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome]:
        """Outcomes only: chunks, then one `Success` or `Failure`."""
        async for item in self._outcomes(value, run_id, initial_context_data, chunks=True):
            if not isinstance(item, PipelineResult):
                yield item
            elif item.success:
                yield Success(step_result=item.step_history[-1])
            else:
                last = item.step_history[-1] if item.step_history else None
                yield Failure(feedback=last.feedback if last else None, step_result=last)

    def run_with_events(
        self, value: Any, *, run_id: str | None = None, initial_context_data: dict[str, Any] | None = None
    ) -> AsyncIterator[StepOutcome | PipelineResult]:
        """The same items as iterating over `run_async`."""
        return self._outcomes(value, run_id, initial_context_data, chunks=True)

    async def _outcomes(
        self, value: Any, run_id: str | None, data: dict[str, Any] | None, *, chunks: bool
    ) -> AsyncIterator[StepOutcome | PipelineResult]:
        check_pipeline(self.pipeline, TypeValidator(), queued=self.queued)  # no I/O before this line
        name = run_id or f"run_{uuid4().hex}"
        context = self._first_context(value, data, name)
        engine = await self._opened()
        ended = self._observer.expect(name)
        spec = self.pipeline.to_spec()
        await self._observer.before_run(PreRunPayload(initial_input=value, run_id=name, pipeline_name=spec.name))
        codec: PayloadCodec
        if isinstance(engine, QueuedEngine):
            await engine.client.specs.keep(spec)
            scripts, codec, owner = engine.client.scripts, engine.client.codec, engine.service.manager_id
        else:
            await engine.state.specs.keep(spec)
            scripts, codec, owner = engine.scripts, engine.codec, "pool"
        await submit_run(
            scripts,
            codec,
            spec,
            value,
            run_id=name,
            owner=owner,
            limits=self._limits,
            context=context,
            traceparent=traceparent_of(trace.get_current_span()),
        )
        engine.manager.wake(name)
        async for chunk in self._chunks(engine, name, ended):
            yield chunk
        result = await self._result(engine, name)
        if run_id is None and isinstance(engine, EmbeddedEngine):
            await engine.forget(name)
        yield raise_for(result)

    async def _chunks(
        self, engine: QueuedEngine | EmbeddedEngine, run_id: str, ended: asyncio.Future[None]
    ) -> AsyncIterator[Chunk]:
        """Wait for the end; on the way, pass on the chunks that steps emit, if any step can."""
        reader = self._reader(engine)
        if any("run" in leaf.injects for leaf in self.pipeline.leaves()):
            spec = self.pipeline.to_spec()
            async for event in reader.events(run_id):
                if event.kind is EventKind.CHUNK:
                    yield self._chunk(engine, event, spec)
            return
        while True:
            done, _ = await asyncio.wait([ended], timeout=_LOOK_EVERY_S)
            if done or "final" in await reader.record(run_id):
                return

    def _chunk(self, engine: QueuedEngine | EmbeddedEngine, event: Event, spec: PipelineSpec) -> Chunk:
        codec = engine.client.codec if isinstance(engine, QueuedEngine) else engine.codec
        data = codec.decode(event.fields["data"].encode())
        return Chunk(
            data=data,
            step_name=step_at(spec, event.path).name,
            attempt=event.attempt,
            sequence=int(event.fields["sequence"]),
        )

    async def _result(self, engine: QueuedEngine | EmbeddedEngine, run_id: str) -> PipelineResult:
        skeleton = self._observer.take(run_id)
        reader, output_type = self._reader(engine), self.pipeline.output_type
        if skeleton is None:  # the pool finished it, or it had ended before
            await reader.wait(run_id, None)
            return await reader.result(run_id, output_type=output_type, context_model=self._context_model)
        return await reader.complete(run_id, skeleton, output_type=output_type, context_model=self._context_model)

    def _reader(self, engine: QueuedEngine | EmbeddedEngine) -> RunReader:
        if isinstance(engine, QueuedEngine):
            return engine.client.reader
        return RunReader(engine.redis, engine.redis, engine.keyspace, engine.codec)

    def _first_context(self, value: Any, data: dict[str, Any] | None, run_id: str) -> dict[str, Any] | None:
        asks = any("context" in leaf.injects or leaf.updates_context or leaf.sink_to for leaf in self.pipeline.leaves())
        if not (self._wants_context or data or asks):
            return None
        values = {**self._context_data, **(data or {})}
        fields = self._context_model.model_fields
        if "initial_prompt" in fields:
            values.setdefault("initial_prompt", str(value))
        if "run_id" in fields:
            values.setdefault("run_id", run_id)
        try:
            model = self._context_model.model_validate(values)
        except PydanticValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise PipelineContextInitializationError(
                f"The initial context does not fit {self._context_model.__name__}: {fault['loc']}: {fault['msg']}."
            ) from error
        return snapshot_of(model.model_dump())

    async def _opened(self) -> QueuedEngine | EmbeddedEngine:
        if self.queued and self._resources is not None:
            raise ConfigurationError(
                "resources= cannot be sent to workers.", suggestion="Set flujo_resources in the pipeline's module."
            )
        loop = asyncio.get_running_loop()
        if self._opening is None or self._loop is not loop:
            self._loop = loop
            self._opening = loop.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> QueuedEngine | EmbeddedEngine:
        engine = self._make_engine()
        await engine.open()
        return engine

    def _make_engine(self) -> QueuedEngine | EmbeddedEngine:
        if self.queued:
            return QueuedEngine(self._settings, serves_pool=False, observer=self._observer)
        registry = Registry(resources=self._resources, context_model=self._context_model)
        registry.add(self.pipeline)
        return EmbeddedEngine(registry, observer=self._observer)

    async def aclose(self) -> None:
        """Disconnect; runs that have not ended fall to the pool."""
        if self._opening is not None and self._loop is asyncio.get_running_loop():
            opening, self._opening = self._opening, None
            await (await opening).close()

    def close(self) -> None:
        """Nothing: `run` leaves nothing open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()
