"""The two Celery tasks: `flujo.step`, and `flujo.submit` for Celery clients without this package."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from celery.exceptions import Reject

from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.messages import parse_step_message
from flujo_client.protocol.queues import STEP_TASK, SUBMIT_TASK
from flujo_client.protocol.settings import Settings
from flujo_worker.attempt import AttemptEnd
from flujo_worker.consumer import STEP_STRATEGY
from flujo_worker.notice import EndingNotice
from flujo_worker.process import WorkerProcess
from flujo_worker.request import SUBMIT_REQUEST
from flujo_worker.submit import Submission, submit_or_refuse, submit_patiently

__all__ = ["ProcessLoop", "register_tasks"]

_START_TIMEOUT_S = 30.0

#: What handing over takes at most, and somewhat more.
_STOP_TIMEOUT_S = 15.0


class ProcessLoop:
    """One event loop in a thread, for pools whose tasks are sync (prefork, threads): every step of the process runs on it.

    Args:
        make_process: Makes the process' parts on the loop.
        notice: Of the worker's end. The tasks of these pools wait for their steps, and Celery for its tasks: without it
            nothing would end a step before its own end.
        grace_s: What running steps get after the notice.
    """

    def __init__(self, make_process: Callable[[], WorkerProcess], notice: EndingNotice, grace_s: float) -> None:
        self._make_process = make_process
        self._notice = notice
        self._grace_s = grace_s
        self._ending: asyncio.Task[None] | None = None
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
        if self._notice.readable is not None:
            asyncio.get_running_loop().add_reader(self._notice.readable, self._noticed, process)
        return process

    def _noticed(self, process: WorkerProcess) -> None:
        assert self._notice.readable is not None
        asyncio.get_running_loop().remove_reader(self._notice.readable)
        self._end(process, self._grace_s)

    def _end(self, process: WorkerProcess, grace_s: float) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(_wind_up(process, grace_s))
        return self._ending

    def stop(self) -> None:
        """Wait until the process has ended what it runs; at once, without a notice. Called when the pool's process ends."""
        if self._loop is None or self._process is None:
            return
        process = self._process

        async def ended() -> None:
            await self._end(process, 0)

        asyncio.run_coroutine_threadsafe(ended(), self._loop).result(self._grace_s + _STOP_TIMEOUT_S)


async def _wind_up(process: WorkerProcess, grace_s: float) -> None:
    await process.wind_up(grace_s)
    await process.end()


def register_tasks(app: Celery, settings: Settings, loop: ProcessLoop, notice: EndingNotice) -> None:
    """Define both tasks on an app.

    Args:
        app: Gets the tasks.
        settings: Of the installation.
        loop: Runs steps where the pool does not do it itself.
        notice: Of the worker's end.
    """

    @app.task(name=STEP_TASK, bind=True, ignore_result=True, max_retries=0, shared=False, Strategy=STEP_STRATEGY)  # type: ignore[untyped-decorator]
    def run_steps(task: Any, **body: Any) -> str:
        message = parse_step_message(
            {**body, "traceparent": task.request.get("traceparent") or ""}, settings.signing_keys
        )
        outcomes: dict[str, AttemptEnd] = {}

        def ended(ref: Any, end: AttemptEnd) -> None:
            outcomes[ref.path] = end

        loop.run(lambda process: process.handle(message, lambda ref: None, ended))
        return ", ".join(end.outcome for end in outcomes.values())

    # A submission has no journal yet, so its message must outlive Redis and this process.
    @app.task(  # type: ignore[untyped-decorator]
        name=SUBMIT_TASK,
        bind=True,
        acks_late=True,
        reject_on_worker_lost=True,
        ignore_result=True,
        max_retries=0,
        shared=False,
        Request=SUBMIT_REQUEST,
    )
    def submit(task: Any, *args: Any, **kwargs: Any) -> str:
        submission = Submission(task.request.id or "", args, kwargs, task.request.get("traceparent") or "")
        submitting = partial(submit_or_refuse, settings, submission)
        try:
            return asyncio.run(submit_patiently(submitting, submission.run_id, lambda: notice.given))
        except StateUnavailableError as error:
            raise Reject(error, requeue=True) from error
