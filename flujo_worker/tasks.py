"""The two Celery tasks: `flujo.step`, and `flujo.submit` for Celery clients without this package."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery

from flujo_client.protocol.messages import parse_step_message
from flujo_client.protocol.queues import STEP_TASK, SUBMIT_TASK
from flujo_client.protocol.settings import Settings
from flujo_worker.attempt import AttemptEnd
from flujo_worker.consumer import STEP_STRATEGY
from flujo_worker.process import WorkerProcess
from flujo_worker.submit import submit_by_name

__all__ = ["ProcessLoop", "register_tasks"]

_START_TIMEOUT_S = 30.0


class ProcessLoop:
    """One event loop in a thread, for pools whose tasks are sync (prefork, threads): every step of the process runs on it.

    Args:
        make_process: Makes the process' parts on the loop.
    """

    def __init__(self, make_process: Callable[[], WorkerProcess]) -> None:
        self._make_process = make_process
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process: WorkerProcess | None = None

    def run(self, work: Callable[[WorkerProcess], Any]) -> Any:
        """Run a coroutine on the loop and wait for it."""
        loop, process = self._started()
        return asyncio.run_coroutine_threadsafe(work(process), loop).result()

    def _started(self) -> tuple[asyncio.AbstractEventLoop, WorkerProcess]:
        with self._lock:  # the threads pool calls from many threads
            if self._loop is None or self._process is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="flujo-loop", daemon=True).start()
                opened = asyncio.run_coroutine_threadsafe(self._open(), loop)
                self._process = opened.result(_START_TIMEOUT_S)
                self._loop = loop
            return self._loop, self._process

    async def _open(self) -> WorkerProcess:
        process = self._make_process()
        await process.open()
        return process

    def stop(self, grace_s: float) -> None:
        """Hand over what runs and retire; called when the pool's process ends."""
        if self._loop is None or self._process is None:
            return
        process = self._process
        process.stop_intake()

        async def drain() -> None:
            await process.hand_over()
            await process.close()

        asyncio.run_coroutine_threadsafe(drain(), self._loop).result(grace_s + 10)


def register_tasks(app: Celery, settings: Settings, loop: ProcessLoop) -> None:
    """Define both tasks on an app.

    Args:
        app: Gets the tasks.
        settings: Of the installation.
        loop: Runs steps where the pool does not do it itself.
    """

    @app.task(name=STEP_TASK, bind=True, ignore_result=True, max_retries=0, Strategy=STEP_STRATEGY)  # type: ignore[untyped-decorator]
    def run_steps(task: Any, **body: Any) -> str:
        message = parse_step_message({**body, "traceparent": task.request.get("traceparent") or ""})
        outcomes: dict[str, AttemptEnd] = {}

        def ended(ref: Any, end: AttemptEnd) -> None:
            outcomes[ref.path] = end

        loop.run(lambda process: process.handle(message, lambda ref: None, ended))
        return ", ".join(end.outcome for end in outcomes.values())

    @app.task(name=SUBMIT_TASK, bind=True, acks_late=True, ignore_result=True, max_retries=0)  # type: ignore[untyped-decorator]
    def submit(
        task: Any,
        pipeline: str,
        input: Any = None,
        run_id: str | None = None,
        usage_limits: dict[str, Any] | None = None,
    ) -> str:
        traceparent = task.request.get("traceparent") or ""
        return asyncio.run(
            submit_by_name(settings, pipeline, input, run_id or task.request.id, usage_limits, traceparent)
        )
