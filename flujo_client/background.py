"""`BackgroundDesk`: the background steps of runs: what became of them, and their cancellation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from flujo_client.events import RunReader
from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.background import CANCELLED
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import child_of
from flujo_client.protocol.errors import TaskNotFoundError
from flujo_client.protocol.results import StepResult
from flujo_client.protocol.spec import BackgroundSpec
from flujo_client.state import StateManager

__all__ = ["BackgroundDesk", "BackgroundTask", "kept_tasks"]


@dataclass(frozen=True, slots=True)
class BackgroundTask:
    """One background step of a run.

    Attributes:
        task_id: As `BackgroundLaunched` and the node's metadata have it.
        run_id: Of the run that it belongs to.
        path: Of its node; "" where only the result of the run is left.
        given: Its input.
        error: Why it failed; `cancelled` of one that was cancelled.
        category: What kind of failure that is; see `error_category`.
        result: Of the step, or of the last in it that has ended; None until anything of it has.
        context: Names of the payloads of the context that it began with.
    """

    task_id: str
    run_id: str
    step_name: str
    status: Literal["running", "completed", "failed", "cancelled"]
    path: str = ""
    given: Any = None
    error: str | None = None
    category: str | None = None
    result: StepResult | None = None
    context: tuple[str, ...] = ()


class BackgroundDesk:
    """The background steps of runs that Redis has.

    Args:
        state: The runs.
        reader: Of their values.
    """

    def __init__(self, state: StateManager, reader: RunReader) -> None:
        self._state = state
        self._reader = reader

    async def tasks(self, run_id: str) -> list[BackgroundTask]:
        """Those that were launched, in declared order. Raises `RunNotFoundError`."""
        record = await self._reader.record(run_id)
        spec = await self._state.specs.get(record["spec"], run_id)
        nodes = await self._state.all_nodes(run_id)
        launched = [
            (path, node)
            for path, node in nodes.items()
            if "!" not in path and path != "root" and node.told and isinstance(spec.node(path), BackgroundSpec)
        ]
        if not launched:
            return []
        committed = await self._state.step_results(run_id, [path for path, node in nodes.items() if node.attempt])
        graph = RunGraph(spec, KINDS, lambda path: nodes.get(path, FRESH), committed)
        in_order = sorted(launched, key=lambda pair: tuple(map(int, pair[0].split("."))))
        return [await self._task(run_id, graph, path, node) for path, node in in_order]

    async def _task(self, run_id: str, graph: RunGraph, path: str, node: NodeState) -> BackgroundTask:
        whole = await self._reader.step_result(run_id, graph.results(path))
        return _task_of(run_id, whole, graph.state(child_of(path, 0)).status, path, node.context)

    async def find(self, run_id: str, task_id: str) -> BackgroundTask:
        """One of them. Raises `TaskNotFoundError`, `RunNotFoundError`."""
        for task in await self.tasks(run_id):
            if task.task_id == task_id:
                return task
        raise TaskNotFoundError(
            f"Run {run_id} has no background task {task_id}.", suggestion="`flujo background RUN` lists them."
        )

    async def cancel(self, run_id: str, task_id: str) -> bool:
        """Let the run go on without one: nothing of it starts any more, and the run does not wait for it. What of it runs at this
        moment ends as it ends and is paid for.

        Returns:
            False if it had ended, or was cancelled, before.

        Raises:
            TaskNotFoundError, RunNotFoundError: As their names say.
        """
        task = await self.find(run_id, task_id)
        if task.status != "running":
            return False
        owner = await self._state.owner_of(run_id)
        heard = await self._state.scripts.revive(run_id, task.path, 1, owner, uuid4().hex, "cancel")
        return heard is True


def kept_tasks(run_id: str, history: Sequence[StepResult]) -> Iterator[BackgroundTask]:
    """The background steps of a run of which only its result is left."""
    for part in history:
        if "background_task_id" in part.metadata_:
            failed = "background_error" in part.metadata_
            yield _task_of(run_id, part, NodeStatus.FAILED if failed else NodeStatus.SUCCEEDED)
        else:
            yield from kept_tasks(run_id, part.step_history)


def _task_of(
    run_id: str, node: StepResult, body: NodeStatus, path: str = "", context: tuple[str, ...] = ()
) -> BackgroundTask:
    error = node.metadata_.get("background_error")
    return BackgroundTask(
        task_id=node.metadata_["background_task_id"],
        run_id=run_id,
        step_name=node.name,
        status=_status(body, error),
        path=path,
        given=node.output,
        error=error,
        category=node.metadata_.get("background_error_category"),
        result=node.step_history[-1] if node.step_history else None,
        context=context,
    )


def _status(body: NodeStatus, error: str | None) -> Literal["running", "completed", "failed", "cancelled"]:
    if error == CANCELLED:
        return "cancelled"
    if body is NodeStatus.FAILED or error is not None:
        return "failed"
    return "completed" if body.succeeded else "running"
