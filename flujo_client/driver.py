"""`RunDriver`: starts runs of one pipeline on an engine, and follows each to its result."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

from flujo_client.account_book import AccountBook
from flujo_client.archive.backend import WorkflowState
from flujo_client.archiver import RunArchiver, archived_result
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.engines import Engine
from flujo_client.events import RunReader, raise_for, rests
from flujo_client.execution.paths import control_of
from flujo_client.hook_facts import HookFacts
from flujo_client.observer import HookObserver
from flujo_client.pauses import PauseDesk
from flujo_client.protocol.context import snapshot_of
from flujo_client.protocol.errors import (
    FlujoError,
    PipelineContextInitializationError,
    ReplayError,
    ResumeError,
    RunNotFoundError,
)
from flujo_client.protocol.messages import LAUNCH, EventKind
from flujo_client.protocol.named import Account
from flujo_client.protocol.outcomes import BackgroundLaunched, Chunk, StepOutcome
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.results import Pause, PipelineContext, PipelineResult, PreRunPayload, RunStatus
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.tracing import traceparent_of
from flujo_client.tidings import chunk_of, launch_of, tells, unless
from flujo_client.traces import TraceReader

logger = logging.getLogger(__name__)

__all__ = ["RunDriver", "RunTerms", "reader_of"]

#: How long a caller waits for its own manager's word before it looks at the stored run, in case the pool took it over.
_LOOK_EVERY_S = 5.0

#: Fields of contexts that are those of one run.
_OF_ONE_RUN = frozenset({"run_id", "status", "step_outputs"})


@dataclass(frozen=True, slots=True)
class RunTerms:
    """What all runs of a `Flujo` have in common.

    Attributes:
        context_model: Of their context; None if the user named none.
        context_data: For it; a run may add to it.
        tracing: Whether results carry the run's trace tree.
        delete_on_completion: Whether the state backend forgets a run that has ended.
        accounts: Named ones, defined before each run.
    """

    context_model: type[BaseModel] | None = None
    context_data: Mapping[str, Any] = field(default_factory=dict)
    limits: UsageLimits | None = None
    tracing: bool = True
    delete_on_completion: bool = False
    accounts: tuple[Account, ...] = ()


class RunDriver:
    """Starts runs and follows them.

    Args:
        pipeline: What they run.
        terms: Of all of them.
        observer: Hooks of the caller; hears of the end of a run that the engine's own manager drives.

    Attributes:
        tracing: Whether results carry the run's trace tree.
        archiver: Of the state backend, if there is one.
    """

    def __init__(self, pipeline: Pipeline, terms: RunTerms, observer: HookObserver) -> None:
        self._pipeline = pipeline
        self._terms = terms
        self._observer = observer
        self.tracing = terms.tracing
        self.archiver: RunArchiver | None = None
        self._spec: PipelineSpec
        self._tasks: set[asyncio.Task[None]] = set()
        self._context_model = terms.context_model or PipelineContext

    def read_pipeline(self) -> None:
        """Take the pipeline for the runs to come as it is now. To be called before the first one."""
        self._spec = self._pipeline.to_spec()

    def beside(self, pipeline: Pipeline) -> RunDriver:
        """What drives runs of another pipeline on the same terms; its functions must be known to the same engine."""
        other = RunDriver(pipeline, self._terms, self._observer)
        other.archiver = self.archiver
        other.read_pipeline()
        return other

    async def context_of(self, engine: Engine, run_id: str, names: Sequence[str]) -> dict[str, Any]:
        """A context of a run, by its payloads, as data for the context of another."""
        if not names:
            return {}
        context = await reader_of(engine).context(run_id, names, self._context_model)
        return {name: value for name, value in context.model_dump().items() if name not in _OF_ONE_RUN}

    async def outcomes(
        self, engine: Engine, value: Any, run_id: str, data: Mapping[str, Any], *, named: bool
    ) -> AsyncGenerator[StepOutcome | PipelineResult]:
        """Run once: what is to be told on the way, then the result.

        Args:
            data: For the context, over that of all runs.
            named: Somebody may ask for the run again by its id.

        Raises:
            FlujoError: What ended the run, where that is raised; see `Flujo.run`.
        """
        kept = await self._bring_back(engine, run_id) if named else None
        if kept is not None and RunStatus(kept.status).terminal:
            yield raise_for(archived_result(kept))
            return
        context = self._first_context(value, data, run_id)
        ended = self._observer.expect(run_id)
        result = None
        try:
            if kept is None:
                await self._start(engine, value, run_id, context)
            engine.manager.wake(run_id)
            async with aclosing(self._follow(engine, run_id, ended, "0-0")) as items:
                async for item in items:
                    if isinstance(item, PipelineResult):
                        result = item
                    else:
                        yield item
        finally:
            self._observer.forget(run_id)
            if result is None and not named:
                self._keep(asyncio.create_task(engine.abandon(run_id)))
        assert result is not None
        if result.status.terminal:
            await self._put_away(engine, run_id)
            await (engine.retain(run_id) if named else engine.forget(run_id))
        yield raise_for(result)

    async def _start(self, engine: Engine, value: Any, run_id: str, context: dict[str, Any] | None) -> None:
        spec = self._spec
        self._observer.attach(HookFacts(engine.state, reader_of(engine), self._context_model))
        limits = self._terms.limits
        self._observer.announce(
            PreRunPayload(
                initial_input=value,
                run_id=run_id,
                pipeline_name=spec.name,
                initial_budget_cost_usd=limits.total_cost_usd_limit if limits else None,
                initial_budget_tokens=limits.total_tokens_limit if limits else None,
            )
        )
        engine.specs.remember(spec)
        await submit_run(
            engine.scripts,
            engine.codec,
            spec,
            value,
            run_id=run_id,
            owner=engine.owner,
            limits=self._terms.limits,
            context=context,
            traceparent=traceparent_of(trace.get_current_span()),
            accounts=await AccountBook(engine.scripts).define_for(spec, self._terms.accounts),
        )

    async def replay(self, engine: Engine, run_id: str) -> PipelineResult:
        """The recorded result of a run that has ended; see `Flujo.replay_from_trace`."""
        reader = reader_of(engine)
        types: dict[str, Any] = {"output_type": self._pipeline.output_type, "context_model": self._context_model}
        try:
            result = await reader.result(run_id, **types)
            result.trace_tree = await TraceReader(engine.scripts, engine.codec, engine.specs).read(run_id)
        except RunNotFoundError as error:
            found = None if self.archiver is None else await self.archiver.backend.load_state(run_id)
            if self.archiver is None or found is None or found["status"] in (RunStatus.RUNNING, RunStatus.PAUSED):
                raise ReplayError(
                    f"Run {run_id} is not known, or has not ended: there is nothing to replay.", run_id=run_id
                ) from error
            result = archived_result(WorkflowState.model_validate(found))
            result.trace_tree = await self.archiver.backend.get_trace(run_id)
        return result

    async def _bring_back(self, engine: Engine, run_id: str) -> WorkflowState | None:
        """A run that only the state backend knows goes on, unless it has ended there."""
        if self.archiver is None or await engine.scripts.commands.execute("EXISTS", engine.keyspace.run(run_id).run):
            return None
        return await self.archiver.restore(run_id, self._spec, engine.owner)

    async def _put_away(self, engine: Engine, run_id: str) -> None:
        """Keep a run that has ended, where no manager of a fleet does it. The result does not wait for a backend that is away."""
        if self.archiver is None or engine.archives:
            return
        if (error := self.archiver.stopped(run_id)) is not None:
            await engine.forget(run_id)
            raise error
        try:
            if self._terms.delete_on_completion:
                self.archiver.forget(run_id)
                await self.archiver.backend.delete_state(run_id)
            else:
                await self.archiver.archive(run_id)
        except FlujoError as error:
            logger.error("run not kept", extra={"run_id": run_id, "error": str(error)})  # noqa: TRY400 - the error says all

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until what callers abandoned is cleared away."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def resume(self, engine: Engine, run_id: str, token: str | None, answer: Any) -> PipelineResult:
        """Answer a pause and follow the run until it ends or pauses again; see `Flujo.resume_async`."""
        kept = await self._bring_back(engine, run_id)
        if kept is not None and RunStatus(kept.status).terminal:
            raise ResumeError(f"Run {run_id} takes no answer any more: it is {kept.status}.", run_id=run_id)
        desk = PauseDesk(engine.state, engine.codec)
        pause = await desk.find(run_id, token)
        if pause is None:
            raise ResumeError(
                f"Run {run_id}: step {token} was answered before, and the first answer counts.", run_id=run_id
            )
        accepted = self._accepted(pause, answer)
        ended = self._observer.expect(run_id)
        self._observer.attach(HookFacts(engine.state, reader_of(engine), self._context_model))
        try:
            await engine.adopt(run_id)
            after = await desk.answer(run_id, accepted, pause.token)
            engine.manager.wake(run_id)
            async with aclosing(self._follow(engine, run_id, ended, after)) as items:
                async for item in items:
                    last = item
        finally:
            self._observer.forget(run_id)
        assert isinstance(last, PipelineResult)
        if last.status.terminal:
            await self._put_away(engine, run_id)
            await engine.retain(run_id)
        return last.model_copy(update={"success": True}) if last.status is RunStatus.PAUSED else raise_for(last)

    def _accepted(self, pause: Pause, answer: Any) -> Any:
        for leaf in self._pipeline.leaves():
            if isinstance(leaf, HumanInTheLoopStep) and leaf.name == pause.step_name:
                return leaf.accept(answer)
        return answer

    async def _follow(
        self, engine: Engine, run_id: str, ended: asyncio.Future[None], after: str
    ) -> AsyncGenerator[Chunk | BackgroundLaunched | PipelineResult]:
        """Chunks after an event, then the result, when the run has ended or waits for an answer."""
        reader = reader_of(engine)
        result = None
        while result is None:
            chunks = self._chunks(engine, reader, run_id, ended, after)
            with engine.telling_stalls(run_id):
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
            result = await self._result(engine, reader, run_id)
            if result is None:  # somebody has answered meanwhile
                ended = self._observer.expect(run_id)
                after = (await reader.record(run_id))["applied"]
        await engine.make_durable()
        fault = self._observer.fault(run_id)
        if fault is not None:
            raise fault
        yield result

    async def _chunks(
        self, engine: Engine, reader: RunReader, run_id: str, ended: asyncio.Future[None], after: str
    ) -> AsyncGenerator[Chunk | BackgroundLaunched]:
        """Wait until the run ends or pauses; on the way, pass on what steps tell, if any step can."""
        if any(tells(part) for part in self._pipeline.all_steps()):
            spec = self._spec
            async with aclosing(unless(engine.broken, reader.events(run_id, after))) as events:
                async for event in events:
                    if event.kind is EventKind.CHUNK:
                        yield chunk_of(engine.codec, event, spec)
                    elif event.kind is EventKind.SUCCEEDED and control_of(event.path)[0] == LAUNCH:
                        yield launch_of(event, spec)
                    elif event.kind is EventKind.SUSPENDED and rests(await reader.record(run_id)):
                        return
            return
        while True:
            await asyncio.wait([ended, engine.broken], timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            if engine.broken.done():
                engine.broken.result()
            if ended.done() or rests(await reader.record(run_id)):
                return

    async def _result(self, engine: Engine, reader: RunReader, run_id: str) -> PipelineResult | None:
        """The result of a run that has ended, or so far of one that is paused; None if it is neither."""
        skeleton, output_type = self._observer.take(run_id), self._pipeline.output_type
        if skeleton is None and "final" in await reader.record(run_id):  # the pool finished it, or it had ended before
            finished = reader.result(run_id, output_type=output_type, context_model=self._context_model)
            return await self._traced(engine, run_id, finished)
        if skeleton is None:
            skeleton, output_type = await engine.manager.paused_result(run_id), Any
        if skeleton is None:
            return None
        completing = reader.complete(run_id, skeleton, output_type=output_type, context_model=self._context_model)
        return await self._traced(engine, run_id, completing)

    async def _traced(self, engine: Engine, run_id: str, completing: Awaitable[PipelineResult]) -> PipelineResult:
        """A result with its trace tree, if it is to have one; both are read at once."""
        if not self.tracing:
            return await completing
        reading = TraceReader(engine.scripts, engine.codec, engine.specs).read(run_id)
        result, trace_tree = await asyncio.gather(completing, reading)
        result.trace_tree = trace_tree
        return result

    def _first_context(self, value: Any, data: Mapping[str, Any], run_id: str) -> dict[str, Any] | None:
        values = {**self._terms.context_data, **data}
        if self._terms.context_model is None and not values:
            return None
        if "scratchpad" in values:
            raise PipelineContextInitializationError(
                "The initial context has a 'scratchpad'.", suggestion="Declare a field for what it is to hold."
            )
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


def reader_of(engine: Engine) -> RunReader:
    """Of the values of an engine's runs."""
    return RunReader(engine.scripts.commands, engine.blocking, engine.keyspace, engine.codec)
