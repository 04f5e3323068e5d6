"""`RunArchiver`: keeps runs in a state backend: what has ended, for good; in process also what is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from typing import Any

import pydantic_core

from flujo_client.archive.backend import Document, StateBackend, WorkflowState
from flujo_client.archive.dump import RunDump, RunDumps, adapted
from flujo_client.archive.kept import KeptStates
from flujo_client.events import RunReader
from flujo_client.protocol.errors import (
    FlujoError,
    PayloadError,
    ResumeError,
    RunNotFoundError,
    StateUnavailableError,
)
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.results import PipelineResult, RunStatus, StepResult
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.wire import Commands, RedisReplyError
from flujo_client.state import StateManager
from flujo_client.traces import TraceReader

__all__ = ["RunArchiver", "archived_result"]

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
_PAGE = 100

#: Runs of which an archiver remembers at once why they did not go on here; of more, the oldest are forgotten.
_MOST_STOPPED = 1_000

#: How long the manager that archives may be silent before another does it.
_LEASE_MS = 5_000


class RunArchiver:
    """Writes runs to a backend. Every write may be repeated, so any number of archivers do no harm.

    Args:
        state: The runs.
        reader: Of their results.
        traces: Of their traces.
        dumps: Of their records.
        backend: Where they go; owned by the caller.
        pipeline_id: By which the backend groups them; default: the hash of each run's spec.
    """

    def __init__(
        self,
        state: StateManager,
        reader: RunReader,
        traces: TraceReader,
        dumps: RunDumps,
        backend: StateBackend,
        pipeline_id: str | None = None,
    ) -> None:
        self._state = state
        self._reader = reader
        self._traces = traces
        self._dumps = dumps
        self._pipeline_id = pipeline_id
        self.backend = backend
        self._stopping = False
        self._kept = KeptStates(backend)
        self._stopped: dict[str, FlujoError] = {}  # each until its caller asks, which may have left

    @property
    def _commands(self) -> Commands:
        return self._state.scripts.commands

    @property
    def _keyspace(self) -> Keyspace:
        return self._state.keyspace

    async def serve(self, manager_id: str) -> None:
        """Archive what has ended until stopped and cancelled; of all managers one at a time does it."""
        while not self._stopping:
            for shard in range(self._keyspace.shards):
                try:
                    if await self._leads(manager_id, shard):
                        await self.archive_waiting(shard)
                except (FlujoError, RedisReplyError) as error:
                    logger.warning("runs not archived, trying again", extra={"error": str(error)})
            await asyncio.sleep(_PERIOD_S)

    def stop(self) -> None:
        """Have `serve` end, also where redis-py swallows a cancellation, as it does while it connects."""
        self._stopping = True

    async def _leads(self, manager_id: str, shard: int) -> bool:
        key = self._keyspace.archiver(shard)
        if await self._commands.execute("SET", key, manager_id, "NX", "PX", _LEASE_MS) is not None:
            return True
        if await self._commands.execute("GET", key) != manager_id.encode():
            return False
        await self._commands.execute("PEXPIRE", key, _LEASE_MS)
        return True

    async def archive_waiting(self, shard: int) -> int:
        """Archive a page of the runs that have ended; how many. One that cannot be read holds up no other."""
        waiting = self._keyspace.shard("unarchived", shard)
        page = await self._commands.execute("ZRANGE", waiting, 0, _PAGE - 1)
        for raw in page:
            if self._stopping:
                break
            run_id = raw.decode()
            try:
                await self.archive(run_id)
            except RunNotFoundError:  # its retention has ended
                await self._commands.execute("ZREM", waiting, run_id)
            except StateUnavailableError:
                raise
            except FlujoError as error:
                logger.error("run not archived", extra={"run_id": run_id, "error": str(error)})  # noqa: TRY400 - the error says all
        return len(page)

    async def archive(self, run_id: str) -> None:
        """Keep a run that has ended: its trace, its record and steps, and last its whole state. Then it waits no more.

        Raises:
            RunNotFoundError: It is not known, or has not ended.
            StateUnavailableError: Redis or the backend does not answer; nothing is lost, call again.
        """
        result = await self._reader.result(run_id)
        trace = await self._traces.read(run_id)
        state = await self._workflow_state(run_id, result)
        await self.backend.save_trace(run_id, trace.model_dump(mode="json"))
        await _if_offered(self.backend.save_run_start(_run_start(state)))
        for step in _steps(state):
            await _if_offered(self.backend.save_step_result(step))
        await _if_offered(self.backend.save_run_end(run_id, _run_end(state, result)))
        try:
            await self._kept.replace(run_id, state.model_dump(mode="json"))
        finally:
            self._kept.forget(run_id)
        shard = self._keyspace.shard_of(run_id)
        await self._commands.execute("ZREM", self._keyspace.shard("unarchived", shard), run_id)

    async def decided(self, run_id: str) -> bool:
        """Keep a run that goes on as it is now, unless another process has gone on with it: then it does not go on here.

        What cannot be kept is no reason to stop it, unless it was kept as paused: then nobody knows whether another answer was first.

        Returns:
            Whether the run goes on here; if not, see `stopped`.
        """
        waited = self._kept.is_paused(run_id)
        try:
            skeleton = await self._state.final_result(run_id)
            result = await self._reader.complete(run_id, skeleton)
            await self._kept.replace(run_id, (await self._workflow_state(run_id, result)).model_dump(mode="json"))
        except FlujoError as error:
            if waited or isinstance(error, ResumeError):
                self._kept.forget(run_id)
                while len(self._stopped) >= _MOST_STOPPED:
                    del self._stopped[next(iter(self._stopped))]
                self._stopped[run_id] = error
                return False
            logger.warning("state not kept", extra={"run_id": run_id, "error": str(error)})
        return True

    def stopped(self, run_id: str) -> FlujoError | None:
        """Why a run that was answered did not go on here, once; None if it did. What is here of it is not the run any more."""
        return self._stopped.pop(run_id, None)

    def forget(self, run_id: str) -> None:
        """A run has ended that is not to be kept."""
        self._kept.forget(run_id)
        self._stopped.pop(run_id, None)

    async def restore(self, run_id: str, spec: PipelineSpec, owner: str) -> WorkflowState | None:
        """Bring a run back that only the backend knows, so that it goes on.

        Args:
            spec: Of the pipeline here.

        Returns:
            What the backend knows of it; None if it knows nothing. A run that had not ended there goes on.

        Raises:
            RunConflictError: It is a run of another pipeline.
            ResumeError: It is running, and another process took it over at the same time.
        """
        found = await self.backend.load_state(run_id)
        if found is None:
            return None
        state = WorkflowState.model_validate(found)
        if state.status in ("running", "paused") and (kept := state.metadata.get("flujo")) is not None:
            dump = adapted(RunDump.of(kept), spec)
            if state.status == "paused":
                self._kept.note(run_id, found)
            else:
                await self._kept.claim(run_id, found)
            await self._dumps.restore(dump, owner)
        return state

    async def _workflow_state(self, run_id: str, result: PipelineResult) -> WorkflowState:
        record = await self._reader.record(run_id)
        done = sum(part.success for part in result.step_history)
        metadata: Document = {"usage": result.usage}
        value: Any = None
        try:
            dump = await self._dumps.read(run_id)
            value = dump.payloads.get("input")
            metadata["flujo"] = dump.model_dump(mode="json")
        except PayloadError as error:  # in process anything may flow between steps
            logger.warning("the run cannot go on elsewhere", extra={"run_id": run_id, "error": str(error)})
        context = result.final_pipeline_context
        return WorkflowState(
            run_id=run_id,
            pipeline_id=self._pipeline_id or record["spec"],
            pipeline_name=record["pipeline"],
            pipeline_version=(await self._state.specs.get(record["spec"], run_id)).pipeline_version,
            current_step_index=done,
            pipeline_context=_plain(context.model_dump() if context is not None else {}),
            last_step_output=_plain(result.step_history[done - 1].output) if done else value,
            step_history=[_plain(part.model_dump()) for part in result.step_history],
            status=result.status.value,
            created_at=_time(record["created_ms"]),
            updated_at=_time(record.get("finished_ms")),
            error_message=(result.error or {}).get("message") or _blamed(result),
            metadata=metadata,
        )


def archived_result(state: WorkflowState) -> PipelineResult:
    """The result of a run that a backend keeps; outputs and context are JSON values."""
    result = PipelineResult(
        run_id=state.run_id,
        step_history=[StepResult.model_validate(part) for part in state.step_history],
        status=RunStatus(state.status),
        success=state.status == "completed",
        usage=state.metadata.get("usage", {}),
        final_pipeline_context=state.pipeline_context,
    )
    result.total_cost_usd = sum(part.cost_usd for part in result.step_history)
    result.total_tokens = sum(part.token_counts for part in result.step_history)
    kept = state.metadata.get("flujo", {}).get("record", {})
    result.error = pydantic_core.from_json(kept["error"]) if kept.get("error") else None
    return result


def _run_start(state: WorkflowState) -> Document:
    data = state.model_dump(mode="json", include={"run_id", "pipeline_id", "pipeline_name", "pipeline_version"})
    return {**data, "created_at": state.created_at.isoformat()}


def _run_end(state: WorkflowState, result: PipelineResult) -> Document:
    return {
        "status": state.status,
        "finished_at": state.updated_at.isoformat(),
        "total_cost_usd": result.total_cost_usd,
        "total_tokens": result.total_tokens,
        "usage": result.usage,
        "error": state.error_message,
        "output": _plain(result.output),
    }


def _steps(state: WorkflowState) -> Iterator[Document]:
    """A record of every leaf, in order."""
    nodes = [StepResult.model_validate(part) for part in state.step_history]
    for index, part in enumerate(leaf for node in nodes for leaf in _leaves(node)):
        yield {
            "step_run_id": f"{state.run_id}:{index}",
            "run_id": state.run_id,
            "step_index": index,
            "step_name": part.name,
            "status": "completed" if part.success else "failed",
            "attempts": part.attempts,
            "duration_ms": round(part.latency_s * 1000),
            "cost_usd": part.cost_usd,
            "token_counts": part.token_counts,
            "output": part.output,
            "error": part.feedback,
        }


def _leaves(part: StepResult) -> Iterator[StepResult]:
    if not part.step_history:
        yield part
    for inner in part.step_history:
        yield from _leaves(inner)


def _blamed(result: PipelineResult) -> str | None:
    return next((part.feedback for part in reversed(result.step_history) if not part.success), None)


def _plain(value: Any) -> Any:
    """JSON values; what has no JSON form stands as its class."""
    return pydantic_core.to_jsonable_python(value, inf_nan_mode="strings", serialize_unknown=True)


def _time(ms: str | None) -> datetime:
    return datetime.now(UTC) if ms is None else datetime.fromtimestamp(int(ms) / 1000, UTC)


async def _if_offered(write: Awaitable[None]) -> None:
    """A backend need not offer it."""
    try:
        await write
    except NotImplementedError:
        return
