"""`AsyncFlujoClient`: submits pipelines by name and follows their runs; no pipeline code needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Self
from uuid import uuid4

from opentelemetry import trace

from flujo_client.account_book import AccountBook
from flujo_client.archive.backend import StateBackend, WorkflowState
from flujo_client.archive.dump import RunDump, RunDumps
from flujo_client.archive.opening import close_backend, find_backend
from flujo_client.archiver import RunArchiver, archived_result
from flujo_client.background import BackgroundDesk, BackgroundTask, kept_tasks
from flujo_client.events import RunReader, raise_for
from flujo_client.forking import fork_of, place_of
from flujo_client.inspection import RunInspector
from flujo_client.pauses import PauseDesk
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import agree_on_shards, check_server, connect, connect_blocking
from flujo_client.protocol.durability import Fsync
from flujo_client.protocol.errors import RunConflictError, RunNotFoundError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Event
from flujo_client.protocol.modules import refuse_while_importing
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.results import Pause, PipelineResult, RunStatus
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.sealing import make_codec
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import LATEST
from flujo_client.protocol.specs import SpecStore
from flujo_client.protocol.submission import check_run_id, submit_run
from flujo_client.protocol.traces import TraceSpan
from flujo_client.protocol.tracing import traceparent_of
from flujo_client.protocol.wire import Wire
from flujo_client.stalls import StallWatch
from flujo_client.state import StateManager
from flujo_client.traces import TraceReader

__all__ = ["AsyncFlujoClient", "AsyncRun"]


class AsyncFlujoClient:
    """Submits and follows runs.

    Args:
        url: Redis that holds the runs; default: FLUJO_URL.
        settings: Instead of the FLUJO_* variables.
    """

    def __init__(self, url: str | None = None, *, settings: Settings | None = None) -> None:
        base = settings or Settings.from_env()
        self.settings = base if url is None else base.at(url)
        self.client = connect(self.settings.state_url)
        self.blocking = connect_blocking(self.settings.state_url)
        self._wire = Wire(self.settings.state_url)
        self.keyspace = Keyspace(self.settings.namespace, self.settings.shards)
        acknowledged = self.settings.durability == "acknowledged"
        self._fsync = Fsync(Wire(self.settings.state_url), self.keyspace.fsync()) if acknowledged else None
        self.scripts = Scripts(ScriptCaller(self._wire), self.keyspace)
        self.codec = make_codec(self.settings.max_payload_bytes, self.settings.sealing_keys)
        self.specs = SpecStore(self.scripts)
        self.state = StateManager(self.scripts, self.codec, max_deliveries=self.settings.max_deliveries)
        self._checked = False  # Redis, once a client: each submission says anyway whether it was stored
        self.accounts = AccountBook(self.scripts)
        self.desk = PauseDesk(self.state, self.codec)
        self.reader = RunReader(self._wire, self.blocking, self.keyspace, self.codec)
        self.background = BackgroundDesk(self.state, self.reader)
        self.inspector = RunInspector(self.client, self.keyspace, self.specs)
        self.stalls = StallWatch(self.inspector)

    async def check(self) -> None:
        """Make sure that Redis answers and keeps what it is given.

        Raises:
            StateUnavailableError: It does not answer.
            UnsafeRedisError: It may evict keys.
            SettingsError: The namespace has another number of shards.
        """
        await check_server(self.client, self.settings.state_url)
        await agree_on_shards(self.client, self.keyspace)
        self._checked = True

    async def make_durable(self) -> None:
        """With `durability = acknowledged`: wait until all that was answered so far is on Redis' disk. Else nothing.

        Raises:
            ConfigurationError: This Redis cannot tell.
            StateUnavailableError: It did not get there in time.
        """
        if self._fsync is not None:
            await self._fsync.wait()

    async def submit(
        self,
        pipeline: str,
        value: Any = None,
        *,
        run_id: str | None = None,
        version: str = LATEST,
        usage_limits: UsageLimits | None = None,
        deadline_s: float | None = None,
        accounts: Sequence[str] = (),
    ) -> AsyncRun:
        """Start a run of a published pipeline, driven by the pool of managers. Durable when this returns.

        Args:
            pipeline: Its name, as a worker published it.
            value: The input: JSON, or a pydantic model.
            run_id: Names the run and makes the call idempotent: the same id with the same input gives the same run.
                Default: a random one.
            version: Of the pipeline, as workers published it; default: the newest publication.
            usage_limits: The run's budget.
            deadline_s: A run that has not ended so many seconds from now is cancelled, whoever restarts meanwhile; by the
                clock of Redis. Submitted again, it keeps the deadline that it has.
            accounts: Named accounts that pay for it as well; see `Account`.

        Raises:
            UnknownAccountError: Nobody has defined an account that the run, or a step of it, names.
            UnknownPipelineError: No worker has published this name.
            TypeMismatchError: The input does not fit the pipeline.
            RunConflictError: The id belongs to another run.
            StateUnavailableError: Redis does not answer; repeat with the same `run_id`.
        """
        refuse_while_importing()
        if not self._checked:
            await self.check()
        spec = await self.specs.by_name(pipeline, version)
        name = run_id or f"run_{uuid4().hex}"
        await submit_run(
            self.scripts,
            self.codec,
            spec,
            value,
            run_id=name,
            owner=POOL,
            limits=usage_limits,
            traceparent=traceparent_of(trace.get_current_span()),
            deadline_s=deadline_s,
            accounts=accounts,
        )
        await self.make_durable()
        return AsyncRun(self, name)

    async def fork(
        self,
        run_id: str,
        from_step: str,
        *,
        pipeline: str | None = None,
        version: str = LATEST,
        new_run_id: str | None = None,
    ) -> AsyncRun:
        """Start a run in the middle of another: what the other has paid for, and does not depend on that step, is used again.

        Input, context, budget and what is spent of it are the other run's as they were before the step. Branches and items beside
        it keep what they have committed; what failed or was under way in them runs, again.

        Args:
            run_id: Of the other run; under way, ended, or kept by the backend of FLUJO_STATE_URI.
            from_step: The step to begin with: its name, or its path (`2`, `1.0.2`), at any depth. A name in a loop or a state
                machine means the last time; one that items of a map share is no answer, a path is.
            pipeline: A published pipeline instead of the one that the other run is pinned to; the same in what is used again.
            version: Of that pipeline.
            new_run_id: Of the fork, which makes the call idempotent; default: a random one.

        Raises:
            ValueError: The new id cannot be an id.
            RunConflictError: The new id belongs to another run.
            RunNotFoundError: No such run.
            UnknownPipelineError: No worker has published the pipeline.
            ConfigurationError: There is no such step, or several, or the pipelines differ around it or in what is used again.
            ExecutionError: The other run did not reach it.
        """
        refuse_while_importing()
        name = new_run_id or f"run_{uuid4().hex}"
        check_run_id(name)
        await self.check()
        dumps = RunDumps(self.scripts, self.codec, self.specs)
        dump = await self._dump_of(dumps, run_id)
        spec = dump.spec if pipeline is None else await self.specs.by_name(pipeline, version)
        start = place_of(dump, spec, from_step)
        seconds, micros = await self.scripts.commands.execute("TIME")
        fork, events = fork_of(dump, spec, start, name, int(seconds) * 1000 + int(micros) // 1000)
        if not await dumps.store(fork, POOL, events):
            stored = await self.state.record(name)
            if stored.get("fingerprint") != fork.record["fingerprint"]:
                raise RunConflictError(
                    f"Run id {name} belongs to another run, and not to a fork of {run_id} from step {start}.",
                    suggestion="Use another id for the fork.",
                    run_id=name,
                )
        await self.make_durable()
        return AsyncRun(self, name)

    async def _dump_of(self, dumps: RunDumps, run_id: str) -> RunDump:
        try:
            return await dumps.read(run_id)
        except RunNotFoundError:
            state = await self._kept_state(run_id)
            if state is None or "flujo" not in state.metadata:
                raise
            return RunDump.of(state.metadata["flujo"])

    def run(self, run_id: str) -> AsyncRun:
        """A handle of a run that was submitted before, here or elsewhere. Reads nothing."""
        return AsyncRun(self, run_id)

    def archiver(self, backend: StateBackend) -> RunArchiver:
        """What keeps this Redis' runs in a state backend."""
        traces = TraceReader(self.scripts, self.codec, self.specs)
        return RunArchiver(self.state, self.reader, traces, RunDumps(self.scripts, self.codec, self.specs), backend)

    async def kept_result(self, run_id: str) -> PipelineResult | None:
        """The result of a run whose retention is over, from the backend of FLUJO_STATE_URI; None if nobody has kept it."""
        state = await self._kept_state(run_id)
        return None if state is None else archived_result(state)

    async def _kept_state(self, run_id: str) -> WorkflowState | None:
        if self.settings.state_uri is None:
            return None
        backend = find_backend(self.settings.state_uri)
        if backend is None:
            return None
        try:
            state = await backend.load_state(run_id)
        finally:
            await close_backend(backend)
        return None if state is None else WorkflowState.model_validate(state)

    async def close(self) -> None:
        """Disconnect. Runs go on."""
        await self.client.aclose()
        await self.blocking.aclose()
        await self._wire.close()
        if self._fsync is not None:
            await self._fsync.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


class AsyncRun:
    """One run, followed from anywhere."""

    def __init__(self, client: AsyncFlujoClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    async def status(self) -> RunStatus:
        """Where it stands now. Raises `RunNotFoundError`."""
        return await self._client.reader.status(self.run_id)

    async def rest(self, timeout_s: float | None = None) -> RunStatus:
        """Wait until it has ended, or asks something and nothing else of it is under way; where it stands then.

        Raises:
            ResultTimeoutError: Neither came in time; it goes on.
            RunNotFoundError: No such run.
        """
        with self._client.stalls.telling(self.run_id):
            return await self._client.reader.rest(self.run_id, timeout_s)

    async def result(self, timeout_s: float | None = None) -> PipelineResult:
        """Wait for its end and return its result; again: the same result, until its retention ends.

        A failed step raises nothing: `result.success` is False and `result.step_history` says why. What keeps it from going
        on meanwhile, such as no worker that has its step, or a question, is logged as a warning.

        Raises:
            ResultTimeoutError: It has not ended in time; it goes on.
            UsageLimitExceededError: Its budget could not pay; `.result` has what was done.
            RunCancelledError, TypeMismatchError: What ended it.
            RunNotFoundError: No such run.
        """
        try:
            with self._client.stalls.telling(self.run_id):
                await self._client.reader.wait(self.run_id, timeout_s)
            await self._client.make_durable()
            result = await self._client.reader.result(self.run_id)
        except RunNotFoundError:
            kept = await self._client.kept_result(self.run_id)
            if kept is None:
                raise
            result = kept
        return raise_for(result)

    def events(self, after: str = "0-0") -> AsyncIterator[Event]:
        """Every event from the first on (or after an id), in order, as they happen; ends with the run."""
        return self._client.reader.events(self.run_id, after)

    async def trace(self) -> TraceSpan:
        """Its trace tree: all of it once it has ended, else what there is so far. Raises `RunNotFoundError`."""
        return await TraceReader(self._client.scripts, self._client.codec, self._client.specs).read(self.run_id)

    async def cancel(self, reason: str = "cancelled by the client") -> bool:
        """End it: no step starts any more, running ones are stopped. False if it had ended before.

        Raises:
            RunNotFoundError: No such run.
        """
        await self._client.reader.status(self.run_id)
        owner = await self._client.state.owner_of(self.run_id)
        cancelled = await self._client.scripts.cancel(self.run_id, owner, reason) is None
        await self._client.make_durable()
        return cancelled

    async def pauses(self) -> list[Pause]:
        """The questions that it waits for now, in declared order. Raises `RunNotFoundError`."""
        return await self._client.desk.pauses(self.run_id)

    async def background_tasks(self) -> list[BackgroundTask]:
        """Its background steps that were launched, in declared order, with what became of them.

        Raises:
            RunNotFoundError: No such run.
        """
        try:
            return await self._client.background.tasks(self.run_id)
        except RunNotFoundError:
            kept = await self._client.kept_result(self.run_id)
            if kept is None:
                raise
            return list(kept_tasks(self.run_id, kept.step_history))

    async def cancel_background(self, task_id: str) -> bool:
        """Go on without a background step; see `BackgroundDesk.cancel`. False if it had ended before.

        Raises:
            TaskNotFoundError: It has no such background step.
            RunNotFoundError: No such run.
        """
        cancelled = await self._client.background.cancel(self.run_id, task_id)
        await self._client.make_durable()
        return cancelled

    async def resume(self, answer: Any, token: str | None = None) -> None:
        """Answer a question; the first answer wins. Durable when this returns; the run goes on by itself.

        Args:
            answer: JSON, or a pydantic model, as the pause's schema asks.
            token: Of the pause, where the run asks several questions, or has not asked this one yet.

        Raises:
            ResumeError: Nothing waits for the answer, another one was first, or the run has ended.
            TypeMismatchError: It does not fit the schema; the run stays paused.
            RunNotFoundError: No such run.
        """
        await self._client.desk.answer(self.run_id, answer, token)
        await self._client.make_durable()
