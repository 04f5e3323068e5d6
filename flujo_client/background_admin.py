"""`BackgroundAdmin`: what became of the background steps of a runner's runs, and another try for those that failed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from flujo_client.archive.backend import WorkflowState
from flujo_client.archiver import archived_result
from flujo_client.background import BackgroundDesk, BackgroundTask, kept_tasks
from flujo_client.driver import RunDriver, reader_of
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.engines import Engine
from flujo_client.protocol.errors import ConfigurationError, RunNotFoundError, TaskNotFoundError
from flujo_client.protocol.results import PipelineResult, RunStatus
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.scripts.calls import pairs_of

__all__ = ["BackgroundAdmin"]

#: Runs that are looked into, the newest of each kind.
_MOST_RUNS = 500

_MS_AN_HOUR = 3_600_000

#: Hours that tasks are looked for by their id alone.
_LONGEST_AGO = 24 * 30


class BackgroundAdmin(ABC):
    """The part of `Flujo` that looks after background steps. Of runs that are under way, that somebody named, or that a state backend keeps."""

    pipeline: Pipeline
    _driver: RunDriver

    @abstractmethod
    async def _opened(self) -> Engine:
        """What carries the runs."""

    async def get_background_tasks(self, parent_run_id: str) -> list[BackgroundTask]:
        """The background steps of a run that were launched. Raises `RunNotFoundError`."""
        return await self._tasks(await self._opened(), parent_run_id)

    async def get_failed_background_tasks(
        self, parent_run_id: str | None = None, hours_back: float = 24
    ) -> list[BackgroundTask]:
        """Those that failed, and that no later try has made good.

        Args:
            parent_run_id: Of this run alone; default: of all that began so many hours ago at the most.
        """
        engine = await self._opened()
        runs = [parent_run_id] if parent_run_id is not None else [run async for run in self._runs(engine, hours_back)]
        failed = [task for run in runs for task in await self._tasks(engine, run) if task.status == "failed"]
        return [task for task in failed if (await self._tries(engine, task))[1] is not RunStatus.COMPLETED]

    async def cancel_background_task(self, parent_run_id: str, task_id: str) -> bool:
        """Let a run go on without one of them; see `BackgroundDesk.cancel`. False if it had ended before."""
        engine = await self._opened()
        cancelled = await _desk(engine).cancel(parent_run_id, task_id)
        engine.manager.wake(parent_run_id)
        return cancelled

    async def resume_background_task(self, task_id: str, new_data: Any = None) -> PipelineResult:
        """Run a background step again, as a run of its own, on the context that it began with.

        Args:
            task_id: Of a step of one of the newest runs (500 under way, as many ended) that began within a month.
            new_data: Instead of its input.

        Returns:
            Its result, of the run `<parent>_bg_<task>`; a try that succeeded before gives its stored result.

        Raises:
            TaskNotFoundError: No such task.
        """
        engine = await self._opened()
        async for run in self._runs(engine, _LONGEST_AGO):
            for task in await self._tasks(engine, run):
                if task.task_id == task_id:
                    return await self._again(engine, task, new_data, None)
        raise TaskNotFoundError(
            f"None of the {_MOST_RUNS} newest runs under way, nor of as many that have ended, has a background task {task_id}.",
            suggestion="get_background_tasks(RUN) lists those of one run.",
        )

    async def retry_failed_background_tasks(self, parent_run_id: str, max_retries: int = 3) -> list[PipelineResult]:
        """Run those of a run that failed again, one after the other, each with so many retries, 2, 4, 8 … seconds apart."""
        engine = await self._opened()
        failed = await self.get_failed_background_tasks(parent_run_id)
        return [await self._again(engine, task, None, max_retries) for task in failed]

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Cancel those that have not ended so many hours after their run began, of all runs that are under way; how many."""
        engine, cancelled = await self._opened(), 0
        before_ms = _now_ms() - stale_hours * _MS_AN_HOUR
        for run in await _begun_before(engine.scripts, before_ms):
            for task in await self._tasks(engine, run):
                cancelled += task.status == "running" and await self.cancel_background_task(run, task.task_id)
        return cancelled

    async def _tasks(self, engine: Engine, run_id: str) -> list[BackgroundTask]:
        try:
            return await _desk(engine).tasks(run_id)
        except RunNotFoundError:
            archiver = self._driver.archiver
            kept = None if archiver is None else await archiver.backend.load_state(run_id)
            if kept is None:
                raise
            return list(kept_tasks(run_id, archived_result(WorkflowState.model_validate(kept)).step_history))

    async def _runs(self, engine: Engine, hours_back: float) -> AsyncIterator[str]:
        """Runs that began so many hours ago at the most, each once."""
        since_ms = _now_ms() - hours_back * _MS_AN_HOUR
        known = [run for kind in ("active", "finished") for run in await _newest(engine.scripts, kind)]
        for run in known:
            if int((await engine.state.record(run)).get("created_ms", 0)) >= since_ms:
                yield run
        archiver = self._driver.archiver
        for row in [] if archiver is None else await archiver.backend.list_workflows(limit=_MOST_RUNS):
            state = WorkflowState.model_validate(row)
            if state.run_id not in known and state.created_at.timestamp() * 1000 >= since_ms:
                yield state.run_id

    async def _tries(self, engine: Engine, task: BackgroundTask) -> tuple[str, RunStatus | None]:
        """The run id of the last try to run a task again, and how it ended; of the next if the last has failed."""
        number = 1
        while True:
            name = f"{task.run_id}_bg_{task.task_id}" + (f".{number}" if number > 1 else "")
            record = await engine.state.record(name)
            if not record or record["status"] != RunStatus.FAILED:
                return name, RunStatus(record["status"]) if record else None
            number += 1

    async def _again(
        self, engine: Engine, task: BackgroundTask, new_data: Any, max_retries: int | None
    ) -> PipelineResult:
        terms: dict[str, Any] = {"execution_mode": "sync"}
        if max_retries is not None:
            terms |= {"max_retries": max_retries, "backoff_s": 2.0, "jitter": False}
        step = self._step(task)
        alone = step.model_copy(update={"config": step.config.model_copy(update=terms)})
        driver = self._driver.beside(Pipeline([alone], name=f"{self.pipeline.name or 'unnamed'}:{step.name}"))
        run_id, _ = await self._tries(engine, task)
        context = await driver.context_of(engine, task.run_id, task.context)
        value = task.given if new_data is None else new_data
        async with aclosing(driver.outcomes(engine, value, run_id, context, named=True)) as items:
            async for item in items:
                last = item
        assert isinstance(last, PipelineResult)
        return last

    def _step(self, task: BackgroundTask) -> Step[Any, Any]:
        for step in self.pipeline.all_steps():
            if step.in_background and step.name == task.step_name:
                return step
        raise ConfigurationError(
            f"Task {task.task_id}: this pipeline has no background step '{task.step_name}'.",
            suggestion="Ask a Flujo of the pipeline that launched it.",
        )


def _desk(engine: Engine) -> BackgroundDesk:
    return BackgroundDesk(engine.state, reader_of(engine))


async def _newest(scripts: Scripts, kind: str) -> list[str]:
    """Of all shards together, newest first."""
    found: list[tuple[float, str]] = []
    for shard in range(scripts.keyspace.shards):
        key = scripts.keyspace.shard(kind, shard)
        rows = await scripts.commands.execute("ZRANGE", key, -_MOST_RUNS, -1, "WITHSCORES")
        found += [(float(score), run.decode()) for run, score in pairs_of(rows)]
    return [run for _, run in sorted(found, reverse=True)[:_MOST_RUNS]]


async def _begun_before(scripts: Scripts, before_ms: float) -> list[str]:
    """Runs under way that began, or were brought back, before a time: oldest first on each shard."""
    found: list[str] = []
    for shard in range(scripts.keyspace.shards):
        key, page, at = scripts.keyspace.shard("active", shard), [b""], 0
        while page:
            page = await scripts.commands.execute("ZRANGEBYSCORE", key, "-inf", int(before_ms), "LIMIT", at, _MOST_RUNS)
            found += [run.decode() for run in page]
            at += len(page)
    return found


def _now_ms() -> int:
    return int(time.time() * 1000)
