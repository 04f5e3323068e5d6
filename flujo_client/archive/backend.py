"""`StateBackend`: what a store of workflow states offers, and `WorkflowState`: what it is given."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Document", "PipelineCosts", "StateBackend", "WorkflowState", "same_state"]

#: JSON values by name.
Document = dict[str, Any]


def _now() -> datetime:
    return datetime.now(UTC)


class WorkflowState(BaseModel):
    """A run at one moment, as a backend keeps it.

    Attributes:
        current_step_index: Of the top-level step that comes next; the number of steps once all have run.
        pipeline_context: The whole context, the user's own fields included.
        last_step_output: Of the step before `current_step_index`; the run's input before the first.
        metadata: `flujo` holds the run's records, from which it goes on exactly where it was.
    """

    model_config = ConfigDict(extra="ignore")

    run_id: str
    pipeline_id: str = ""
    pipeline_name: str = "unnamed"
    pipeline_version: str = "latest"
    current_step_index: int = Field(0, ge=0)
    pipeline_context: Document = Field(default_factory=dict)
    last_step_output: Any = None
    step_history: list[Document] = Field(default_factory=list)
    status: Literal["running", "paused", "completed", "failed", "cancelled", "aborted"] = "running"
    created_at: datetime = Field(default_factory=_now)
    updated_at: datetime = Field(default_factory=_now)
    error_message: str | None = None
    metadata: Document = Field(default_factory=dict)
    is_background_task: bool = False
    parent_run_id: str | None = None
    task_id: str | None = None
    background_error: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineCosts:
    """What the archived runs of a pipeline cost together."""

    pipeline_name: str
    runs: int
    failed: int
    cost_nanousd: int
    tokens: int


class StateBackend(ABC):
    """Keeps workflow states and what else is known of runs. Five methods are required; the others may be left out.

    Every write is idempotent: the engine repeats one whose end it has not seen. All values are JSON values.
    """

    @abstractmethod
    async def save_state(self, run_id: str, state: Document) -> None:
        """Keep a `WorkflowState`, as JSON values, in the place of the one before."""

    @abstractmethod
    async def load_state(self, run_id: str) -> Document | None:
        """The state of a run; None if there is none."""

    @abstractmethod
    async def delete_state(self, run_id: str) -> None:
        """Forget all that is known of one run, and of no other."""

    @abstractmethod
    async def get_trace(self, run_id: str) -> Document | None:
        """The trace tree of a run; None if there is none."""

    @abstractmethod
    async def save_trace(self, run_id: str, trace: Document) -> None:
        """Keep a run's trace tree in the place of the one before."""

    async def swap_state(self, run_id: str, expected: Document, state: Document) -> bool:
        """`save_state`, if the state that is kept is still `expected`, as `load_state` gave it; at once for all processes.

        Of several processes that go on with a paused run, each with an answer, it lets one. A backend without it lets all.

        Returns:
            Whether it is kept; if not, nothing changed.
        """
        raise NotImplementedError

    async def save_run_start(self, run_data: Document) -> None:
        """Keep what is known when a run starts: `run_id`, `pipeline_name`, `pipeline_version`, `created_at`, `input`."""
        raise NotImplementedError

    async def save_step_result(self, step_data: Document) -> None:
        """Keep a step's record; `step_run_id`, "<run>:<index>", names it."""
        raise NotImplementedError

    async def save_run_end(self, run_id: str, end_data: Document) -> None:
        """Keep how a run ended: `status`, `finished_at`, `total_cost_usd`, `total_tokens`, `error`."""
        raise NotImplementedError

    async def get_run_details(self, run_id: str) -> Document | None:
        """What `save_run_start` and `save_run_end` were given; None if nothing."""
        raise NotImplementedError

    async def list_runs(
        self, status: str | None = None, pipeline_name: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """Run records, newest first."""
        raise NotImplementedError

    async def list_run_steps(self, run_id: str) -> list[Document]:
        """A run's step records, in order."""
        raise NotImplementedError

    async def list_workflows(
        self, status: str | None = None, pipeline_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """Workflow states without their contexts, newest first."""
        raise NotImplementedError

    async def get_workflow_stats(self) -> Document:
        """`total_workflows`, and `status_counts` by status."""
        raise NotImplementedError

    async def get_failed_workflows(self, hours_back: int = 24) -> list[Document]:
        """Workflows that failed within so many hours, newest first."""
        raise NotImplementedError

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete workflows that ended longer ago; how many."""
        raise NotImplementedError

    async def costs_by_pipeline(self, since_ms: int = 0) -> list[PipelineCosts]:
        """What each pipeline's runs cost together, the dearest first.

        Args:
            since_ms: Runs created from then on, ms since the epoch.
        """
        raise NotImplementedError

    async def get_system_state(self, key: str) -> Document | None:
        """A value of the application's own."""
        raise NotImplementedError

    async def set_system_state(self, key: str, value: Any) -> None:
        """Keep a value of the application's own."""
        raise NotImplementedError

    async def shutdown(self) -> None:
        """Let go of connections."""
        raise NotImplementedError


def same_state(one: Document | None, other: Document | None) -> bool:
    """Whether two states are the same JSON; NaN equals itself here."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
