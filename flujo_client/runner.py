"""`Flujo`: runs a pipeline, in this process or on a fleet; the class that existing code uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self
from uuid import uuid4

from pydantic import BaseModel

from flujo_client.archive.backend import StateBackend
from flujo_client.archive.opening import close_backend, open_backend
from flujo_client.background_admin import BackgroundAdmin
from flujo_client.driver import RunDriver, RunTerms
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.engine import QueuedEngine
from flujo_client.engines import Engine, make_archiver
from flujo_client.execution_backend import BackendPolicy, ExecutionBackend
from flujo_client.observer import HookObserver
from flujo_client.pauses import paused_at
from flujo_client.pipeline_registry import PipelineRegistry
from flujo_client.protocol.errors import ConfigurationError, UnqueueableError
from flujo_client.protocol.hooks import HookDispatcher, strict_hooks
from flujo_client.protocol.modules import refuse_while_importing
from flujo_client.protocol.named import Account
from flujo_client.protocol.outcomes import StepOutcome
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.references import StateProvider
from flujo_client.protocol.results import PipelineContext, PipelineResult
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import LATEST
from flujo_client.run_forms import RunForms
from flujo_client.validation import check_pipeline, defined_in_script, refuse_forbidden_pauses
from flujo_worker.embedded import EmbeddedEngine, EmbeddedMemory
from flujo_worker.registry import Registry, StepPolicy

__all__ = ["Flujo"]


class Flujo(RunForms, BackgroundAdmin):
    """Runs one pipeline, any number of times.

    Without a URL it runs in this process, with the same semantics, nothing installed, and lambdas allowed. With a URL, or
    FLUJO_URL, every step becomes a queued task of the fleet that serves it.

    Args:
        pipeline: A pipeline, or a single step; None: that of the registry under `pipeline_name`.
        url: Redis that holds the runs; default: FLUJO_URL.
        context_model: Of the runs' context; default: `PipelineContext`.
        initial_context_data: For the context model; a run may add to it.
        resources: Handed to steps that ask for `resources`; in process only, workers have their own.
        usage_limits: Budget of every run.
        accounts: Named accounts that its runs share with others, defined before each run. One that steps name pays for
            these alone. In process they are this runner's own.
        hooks: Called in this process, as `docs/hooks.md` says; they may raise `PipelineAbortSignal` to end the run.
        backend: Carries out the steps' functions instead of this process, see `ExecutionBackend`; in process only.
        policies: Around every step's function; in process only, workers have their modules' `flujo_policies`.
        state_providers: Of what the `ContextReference`s of contexts point to; in process only, workers have their modules'
            `flujo_state_providers`.
        local_tracer: One more hook, called after all others.
        pipeline_name: Instead of the pipeline's own name.
        pipeline_version: Instead of the pipeline's own version; or which one to take from the registry.
        pipeline_id: By which a state backend groups runs; default: the hash of the pipeline's spec.
        registry: Has the pipeline, if none is given.
        enable_tracing: Whether results carry the run's `trace_tree`.
        state_backend: Keeps the runs that have ended; in process also those under way, so that a named run goes on, or
            gives its result, in another process. Default: that of FLUJO_STATE_URI, if it is set.
        persist_state: False: no backend, whatever FLUJO_STATE_URI says.
        delete_on_completion: Whether the backend forgets a run once it has ended.
        executor_factory: None, as existing code may say: what runs steps here is `policies` or `backend`.
        backend_factory: None, likewise.
        settings: Instead of the FLUJO_* variables.
    """

    def __init__(
        self,
        pipeline: Pipeline | Step[Any, Any] | None = None,
        *,
        url: str | None = None,
        context_model: type[BaseModel] | None = None,
        initial_context_data: dict[str, Any] | None = None,
        resources: Any = None,
        usage_limits: UsageLimits | None = None,
        accounts: Sequence[Account] = (),
        hooks: Sequence[Callable[..., Any]] | None = None,
        backend: ExecutionBackend | None = None,
        policies: Sequence[StepPolicy] = (),
        local_tracer: Callable[..., Any] | None = None,
        state_providers: Mapping[str, StateProvider] | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = LATEST,
        pipeline_id: str | None = None,
        registry: PipelineRegistry | None = None,
        enable_tracing: bool = True,
        state_backend: StateBackend | None = None,
        persist_state: bool = True,
        delete_on_completion: bool = False,
        executor_factory: None = None,
        backend_factory: None = None,
        settings: Settings | None = None,
    ) -> None:
        _check_arguments(context_model, executor_factory, backend_factory)
        self.pipeline = _chosen(pipeline, registry, pipeline_name, pipeline_version)
        self._pipeline_id = pipeline_id
        self._settings = _settings_at(settings, url, persist_state=persist_state)
        self._resources = resources
        self._policies: list[StepPolicy] = [*policies, *([] if backend is None else [BackendPolicy(backend)])]
        self._state_providers = dict(state_providers or {})
        limits = None if usage_limits is None else UsageLimits.model_validate(usage_limits)
        data = initial_context_data or {}
        self._terms = RunTerms(context_model, data, limits, enable_tracing, delete_on_completion, tuple(accounts))
        self._backend = state_backend if persist_state else None
        self._own_backend: StateBackend | None = None
        self._observer = _observer_of(self.pipeline, hooks or (), local_tracer, resources)
        self._driver = RunDriver(self.pipeline, self._terms, self._observer)
        self._memory = EmbeddedMemory()
        self._opening: asyncio.Task[Engine] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def queued(self) -> bool:
        """Whether steps go to a fleet."""
        return self._settings.url is not None

    def as_step(self, name: str, *, inherit_context: bool = True) -> Step[Any, Any]:
        """The pipeline as one step of another; its output is the `PipelineResult` of what ran in it.

        Every step in it is a queued task of the run around it. So the outer runner's budget, hooks and resources count; the
        context is of this runner's model.

        Args:
            name: Of the step.
            inherit_context: Whether it starts with the context around it, and gives back what it changes.

        Raises:
            ConfigurationError: This runner has limits or resources, which would be ignored.
        """
        if self._terms.limits is not None or self._resources is not None:
            raise ConfigurationError(
                f"Step '{name}': a nested runner's usage_limits and resources would be ignored.",
                suggestion="Give them to the runner around it.",
            )
        return self.pipeline.as_step(
            name,
            inherit_context=inherit_context,
            context_model=self._terms.context_model,
            context_data=dict(self._terms.context_data),
            gives_result=True,
        )

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
            UnqueueableError: Steps would be queued that no worker has.
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

    async def _outcomes(
        self, value: Any, run_id: str | None, data: dict[str, Any] | None
    ) -> AsyncGenerator[StepOutcome | PipelineResult]:
        refuse_while_importing()
        model = self._terms.context_model or PipelineContext
        engine = await self._opened({*model.model_fields, *self._terms.context_data, *(data or {})})
        refuse_forbidden_pauses(self.pipeline)
        if self.queued:
            await self._refuse_unpublished_script(engine)
        name = run_id or f"run_{uuid4().hex}"
        outcomes = self._driver.outcomes(engine, value, name, data or {}, named=run_id is not None)
        async with aclosing(outcomes) as items:
            async for item in items:
                yield item

    async def _refuse_unpublished_script(self, engine: Engine) -> None:
        """A step of the script that runs here would wait for ever, unless workers import the script as a module."""
        places = defined_in_script(self.pipeline)
        if places and not await engine.specs.is_published(self.pipeline.to_spec()):
            raise UnqueueableError(
                f"Pipeline '{self.pipeline.name}' cannot be queued: {', '.join(places)}: defined in the script that runs here, "
                "and no worker has published this pipeline.",
                suggestion="Start a worker that imports the script: `flujo worker --pipelines MODULE`; or unset FLUJO_URL to run it here.",
                faults=places,
            )

    async def resume_async(self, paused_result: PipelineResult, human_input: Any) -> PipelineResult:
        """Answer what a paused run asks, and go on with it until it ends or pauses again.

        The result may have been stored as JSON and rebuilt, in another process as well; in process, by the same object.

        Args:
            paused_result: As a run, or a resumption, returned it.
            human_input: The answer. Of several questions it answers the one that the result shows.

        Returns:
            The result; of a run that has paused again one with `success=True` and the status `paused`.

        Raises:
            ResumeError: The run is not paused, was answered before, or has ended.
            pydantic.ValidationError: The answer does not fit the step's `input_schema`; the run stays paused.
            UsageLimitExceededError: As `run`: the budget is the same as before the pause.
        """
        run_id, token = paused_at(paused_result)
        refuse_forbidden_pauses(self.pipeline)
        return await self._driver.resume(await self._opened(), run_id, token, human_input)

    async def replay_from_trace(self, run_id: str) -> PipelineResult:
        """The result of a run that has ended, again, from what was recorded of it: nothing is run or paid.

        Raises:
            ReplayError: The run is not known, here or to the state backend, or has not ended.
        """
        return await self._driver.replay(await self._opened(), run_id)

    async def _opened(self, context_keys: Collection[str] | None = None) -> Engine:
        """The engine of the running loop. The pipeline is checked and read when it is made, and counts as it was then.

        Args:
            context_keys: Fields of the context of the run that needs it; None if no run begins.
        """
        loop = asyncio.get_running_loop()
        if self._opening is not None and self._loop is loop and not _failed(self._opening):
            return await asyncio.shield(self._opening)
        check_pipeline(self.pipeline, queued=self.queued, context_keys=context_keys)  # no I/O before this line
        self._driver.read_pipeline()
        if self.queued and (self._resources is not None or self._policies or self._state_providers):
            raise ConfigurationError(
                "resources=, backend=, policies= and state_providers= cannot be sent to workers.",
                suggestion="Set flujo_resources, flujo_policies and flujo_state_providers in the pipeline's module.",
            )
        self._loop = loop
        self._opening = loop.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Engine:
        if self._backend is None and self._settings.state_uri is not None:
            self._backend = self._own_backend = open_backend(self._settings.state_uri)
        engine = self._make_engine()
        if self._backend is not None:
            self._driver.archiver = make_archiver(engine, self._backend, self._pipeline_id)
            if not engine.archives:
                engine.manager.keeper = self._driver.archiver
        try:
            await engine.open()
        except BaseException:
            await engine.close()
            raise
        return engine

    def _make_engine(self) -> Engine:
        if self.queued:
            return QueuedEngine(self._settings, serves_pool=False, observer=self._observer, backend=self._backend)
        registry = Registry(
            policies=self._policies,
            state_providers=self._state_providers,
            resources=self._resources,
            context_model=self._terms.context_model or PipelineContext,
        )
        registry.add(self.pipeline)
        return EmbeddedEngine(
            registry, observer=self._observer, memory=self._memory, strict_pricing=self._settings.strict_pricing
        )

    def disable_tracing(self) -> None:
        """Results of later runs carry no trace tree; building one costs a little."""
        self._driver.tracing = False

    async def aclose(self) -> None:
        """Disconnect; runs that have not ended fall to the pool."""
        if self._opening is not None and self._loop is asyncio.get_running_loop():
            opening, self._opening = self._opening, None
            await self._driver.settle()
            if not _failed(opening):
                await (await opening).close()
            if self._own_backend is not None:
                await close_backend(self._own_backend)

    def close(self) -> None:
        """Nothing to do after `run`, which leaves nothing open; after `run_async`, await `aclose`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def _failed(opening: asyncio.Task[Engine]) -> bool:
    """Whether an engine could not be opened: Redis was away, say. The next call tries again."""
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


def _check_arguments(model: object, *factories: object) -> None:
    if model is not None and not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise ConfigurationError(
            f"context_model {model!r} is no pydantic model.",
            suggestion="Give a subclass of PipelineContext: see docs/context.md.",
        )
    if any(factory is not None for factory in factories):
        raise ConfigurationError(
            "Flujo takes no executor_factory and no backend_factory.",
            suggestion="Give the execution strategy as policies=[...] or backend=...: see docs/extending.md.",
        )


def _settings_at(settings: Settings | None, url: str | None, *, persist_state: bool) -> Settings:
    """Those that were given, or the environment's, at the URL that was given, if one was."""
    given = settings or Settings.from_env()
    placed = given if url is None else given.at(url)
    return placed if persist_state else placed.model_copy(update={"state_uri": None})


def _observer_of(
    pipeline: Pipeline, hooks: Sequence[Callable[..., Any]], tracer: Callable[..., Any] | None, resources: Any
) -> HookObserver:
    """Calls the hooks of a pipeline and of its runner; those for the end of a run do without the tracer."""
    every = [*pipeline.hooks, *hooks, *([tracer] if tracer else [])]
    ending = [*pipeline.hooks, *pipeline.on_finish, *hooks]
    strict = strict_hooks()
    return HookObserver(HookDispatcher(every, strict=strict), HookDispatcher(ending, strict=strict), resources)


def _chosen(
    pipeline: Pipeline | Step[Any, Any] | None, registry: PipelineRegistry | None, name: str | None, version: str
) -> Pipeline:
    """The pipeline to run, under the name and version that were asked for."""
    if pipeline is None:
        found = registry.get(name, version) if registry is not None and name is not None else None
        if found is None:
            raise ConfigurationError(
                f"No pipeline registered under name '{name}' and version '{version}'.",
                suggestion="Give Flujo a pipeline, or a registry that has it and its pipeline_name.",
            )
        return found
    made = pipeline if isinstance(pipeline, Pipeline) else Pipeline.from_step(pipeline)
    if version != LATEST or name is not None:
        made = Pipeline([made], name=name or made.name, version=made.version if version == LATEST else version)
    return made
