"""`TaskClient`: looks at the runs that a state backend keeps, and answers those that wait, of a fleet as well."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from flujo_client.archive.backend import StateBackend, WorkflowState
from flujo_client.archive.opening import close_backend, open_backend
from flujo_client.archiver import archived_result
from flujo_client.client import AsyncFlujoClient
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.pipeline_registry import PipelineRegistry
from flujo_client.protocol.errors import ConfigurationError, RunNotFoundError, SettingsError, TaskNotFoundError
from flujo_client.protocol.results import PipelineContext, PipelineResult, RunStatus
from flujo_client.protocol.settings import Settings
from flujo_client.runner import Flujo

__all__ = ["SystemState", "TaskClient", "TaskDetail", "TaskStatus", "TaskSummary"]


class TaskStatus(StrEnum):
    """Where a kept run stands."""

    RUNNING = "running"  # under way when it was kept
    PAUSED = "paused"  # waits for an answer
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABORTED = "aborted"


class TaskSummary(BaseModel):
    """A kept run in one line."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run_id: str
    pipeline_name: str
    pipeline_version: str
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    error_message: str | None = None


class TaskDetail(TaskSummary):
    """A kept run in full.

    Attributes:
        current_step_index: Of the top-level step that comes next.
        pipeline_context: The whole context, as JSON values.
    """

    current_step_index: int
    last_step_output: Any = None
    step_history: list[dict[str, Any]]
    pipeline_context: dict[str, Any]

    @property
    def pause_message(self) -> str | None:
        """What a run that waits asks."""
        message: str | None = self.pipeline_context.get("pause_message")
        return message


class SystemState(BaseModel):
    """A value of the application's own."""

    model_config = ConfigDict(frozen=True)

    key: str
    value: Any


class TaskClient:
    """Looks at kept runs and answers those that wait, from any process that reaches the backend.

    Args:
        backend: Owned by the caller; default: that of FLUJO_STATE_URI, which `close` lets go of.
        settings: Default: those of the environment. With a `url` runs of that fleet are answered too, which wait in its Redis.

    Raises:
        SettingsError: There is no backend.
    """

    def __init__(self, backend: StateBackend | None = None, *, settings: Settings | None = None) -> None:
        self._settings = settings or Settings.from_env()
        uri = self._settings.state_uri
        if backend is None and uri is None:
            raise SettingsError("FLUJO_STATE_URI is not set.", suggestion="Set it, or give TaskClient a backend.")
        self._own = None if backend is not None or uri is None else open_backend(uri)
        kept_by = backend or self._own
        assert kept_by is not None
        self._backend = kept_by

    async def list_tasks(
        self, status: TaskStatus | str | None = None, limit: int = 50, offset: int = 0
    ) -> list[TaskSummary]:
        """Kept runs, newest first."""
        wanted = None if status is None else TaskStatus(status).value
        found = await self._backend.list_workflows(wanted, None, limit, offset)
        return [TaskSummary.model_validate(state) for state in found]

    async def get_task(self, run_id: str) -> TaskDetail:
        """A kept run. Raises `TaskNotFoundError`."""
        return TaskDetail.model_validate((await self._state(run_id)).model_dump())

    async def resume_task(
        self,
        run_id: str,
        answer: Any,
        *,
        pipeline: Pipeline | None = None,
        registry: PipelineRegistry | None = None,
    ) -> PipelineResult:
        """Answer a run that waits, and go on with it until it ends or waits again: here, or on the fleet that has it.

        Args:
            pipeline: What the run runs.
            registry: Has it under the name and version that the run was started with.

        Raises:
            TaskNotFoundError: No such run.
            ConfigurationError: The pipeline is not given, nor in the registry.
            ResumeError: The run does not wait.
        """
        kept = await self._backend.load_state(run_id)
        if kept is None:
            paused, name, version = await self._of_the_fleet(run_id)
        else:
            state = WorkflowState.model_validate(kept)
            paused, name, version = archived_result(state), state.pipeline_name, state.pipeline_version
        found = pipeline
        if found is None and registry is not None:
            found = registry.get(name, version)
        if found is None:
            raise ConfigurationError(
                f"Run {run_id} runs pipeline '{name}' {version}, which is not at hand.",
                suggestion="Give the pipeline, or a registry that has it.",
            )
        options: dict[str, Any] = {"settings": self._settings} if kept is None else {"state_backend": self._backend}
        async with Flujo(found, **options) as flujo:
            return await flujo.resume_async(paused, answer)

    async def _of_the_fleet(self, run_id: str) -> tuple[PipelineResult, str, str]:
        """A run that waits in the fleet's Redis, as a paused result; and the name and version of its pipeline."""
        if self._settings.url is None:
            raise _unknown(run_id)
        async with AsyncFlujoClient(settings=self._settings) as client:
            try:
                record = await client.reader.record(run_id)
            except RunNotFoundError as error:
                raise _unknown(run_id) from error
            spec = await client.specs.get(record["spec"], run_id)
        status = RunStatus(record["status"])
        context = PipelineContext(run_id=run_id, status=status.value)
        return (
            PipelineResult(run_id=run_id, status=status, final_pipeline_context=context),
            spec.name,
            spec.pipeline_version,
        )

    async def get_system_state(self, key: str) -> SystemState | None:
        """A value of the application's own; None if there is none."""
        found = await self._backend.get_system_state(key)
        return None if found is None else SystemState.model_validate(found)

    async def set_system_state(self, key: str, value: Any) -> SystemState:
        """Keep a value of the application's own."""
        await self._backend.set_system_state(key, value)
        return SystemState(key=key, value=value)

    async def _state(self, run_id: str) -> WorkflowState:
        found = await self._backend.load_state(run_id)
        if found is None:
            raise _unknown(run_id)
        return WorkflowState.model_validate(found)

    async def close(self) -> None:
        """Let go of the backend, if it is the client's own."""
        if self._own is not None:
            await close_backend(self._own)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _unknown(run_id: str) -> TaskNotFoundError:
    return TaskNotFoundError(
        f"No run {run_id} is kept.",
        suggestion="Check the id, the backend, and FLUJO_URL for a run of a fleet.",
        run_id=run_id,
    )
