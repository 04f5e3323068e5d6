"""`AsyncioPool`: Celery's worker with steps on the very thread that takes their messages.

Celery's consumer runs on kombu's hub, a loop over an epoll object. An epoll object is itself a file that can be polled,
so the hub's poller is replaced by one that runs the asyncio loop until the hub's own poller has something to say. Steps
thus run between two turns of the hub, and no step is handed from one thread to another. Other Celery tasks run in
threads.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.concurrency.base import BasePool, apply_target
from kombu.asynchronous import Hub

from flujo_client.protocol.errors import MessageError
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.health import HealthKeeper
from flujo_client.protocol.messages import StepMessage, StepRef, parse_step_message
from flujo_client.protocol.queues import STEP_TASK, task_id
from flujo_worker.attempt import AttemptEnd
from flujo_worker.process import WorkerProcess
from flujo_worker.signs import ConsumerSigns

__all__ = ["AsyncioPool", "WorkerApp"]

logger = logging.getLogger(__name__)

#: What submissions get at the end, and Celery to be told of ends.
_LAST_S = 5.0


class _LoopPoller:
    """kombu's poller, waiting in the asyncio loop instead of in the kernel.

    Args:
        inner: The poller that the hub made.
        loop: Runs whenever the hub waits.
    """

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self.register = inner.register
        self.unregister = inner.unregister
        native = getattr(inner, "_epoll", None) or inner._kqueue
        self._fileno = native.fileno()
        self._attached = False
        self.attach()

    def attach(self) -> None:
        """Let the hub's files interrupt the loop."""
        if not self._attached:
            self._loop.add_reader(self._fileno, self._loop.stop)
            self._attached = True

    def poll(self, timeout: float | None) -> Any:
        """Run the loop until a file of the hub is ready or the time is over; one turn of it in any case."""
        timer = self._loop.call_later(1.0 if timeout is None else max(timeout, 0), self._loop.stop)
        self._loop.run_forever()
        timer.cancel()
        return self._inner.poll(0)

    def detach(self) -> None:
        """Let the loop run by itself: the hub no longer interrupts it."""
        if self._attached:
            self._loop.remove_reader(self._fileno)
            self._attached = False

    def close(self) -> None:
        """Close the hub's poller."""
        self.detach()
        self._inner.close()


class _Job:
    """What Celery holds of a message under way.

    Args:
        revoke: Ends what Celery knows by the message's id.
    """

    def __init__(self, revoke: Callable[[], None]) -> None:
        self._revoke = revoke

    def terminate(self, signal: Any = None) -> None:
        """Called for Flower's revoke with terminate."""
        self._revoke()


class WorkerApp(Celery):  # type: ignore[misc]  # celery has no types
    """The app of a worker, with what the pool needs of it: Celery makes the pool, and hands it the app.

    Attributes:
        make_process: Makes the parts of a process with so many slots.
        shutdown_grace_s: What running steps get at the end.
        signs: Of its consumer's life.
        health: Looks at them, once it takes messages.
        signing_keys: One of which must have signed a message; none where they are not signed.
        private: Payloads are encrypted here, so Celery's events tell of a failure only what it is called.
    """

    make_process: Callable[[int], WorkerProcess]
    shutdown_grace_s: float
    signs: ConsumerSigns
    health: HealthKeeper | None
    signing_keys: tuple[str, ...] = ()
    private: bool = False


class AsyncioPool(BasePool):  # type: ignore[misc]  # celery has no types
    """A pool of one process whose steps share one event loop."""

    signal_safe = False
    body_can_be_buffer = False
    task_join_will_block = False

    app: WorkerApp

    def on_start(self) -> None:
        """Make the loop and what runs on it."""
        self.loop = asyncio.new_event_loop()
        self.dispatcher: Any = None
        self._poller: _LoopPoller | None = None
        self._winding_up = False
        self._tasks: dict[asyncio.Task[None], _Job] = {}  # Celery holds a job only weakly
        self._others: weakref.WeakSet[_Job] = weakref.WeakSet()  # of tasks that are no steps
        asyncio.set_event_loop(self.loop)
        self._process = self.loop.run_until_complete(self._open())
        gc.freeze()  # what is imported by now stays: it need not be walked through again and again

    async def _open(self) -> WorkerProcess:
        process = self.app.make_process(self.limit)
        await process.open()
        return process

    def register_with_event_loop(self, hub: Hub) -> None:
        """Put the asyncio loop under the hub; called again after every reconnect, with a fresh poller."""
        if isinstance(hub.poller, _LoopPoller):
            hub.poller.attach()
        else:
            self._poller = hub.poller = _LoopPoller(hub.poller, self.loop)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], None] | None = None,
        accept_callback: Callable[[int, float], None] | None = None,
        **_: Any,
    ) -> _Job:
        """Take a message: steps onto the loop, any other task into a thread."""
        if not args or args[0] != STEP_TASK:
            work = self._run_task(target, args, kwargs, callback, accept_callback)
            job = _Job(_nothing)  # a thread cannot be stopped
            self._others.add(job)
            return self._spawn(work, job)
        message = self._read(args[2], callback, accept_callback)
        if message is None:
            return _Job(_nothing)
        first = message.steps[0]  # those packed with it are not meant
        job = self._spawn(self._run_steps(message, callback), _Job(lambda: self._process.terminate(first)))
        self._begin()
        return job

    def _begin(self) -> None:
        """Let what was spawned send its claim before the hub asks for more messages: Redis works on it meanwhile."""
        if not self.loop.is_running():
            self.loop.call_soon(self.loop.call_soon, self.loop.stop)  # two turns: the first asks, the second sends
            self.loop.run_forever()

    def _spawn(self, work: Coroutine[Any, Any, None], job: _Job) -> _Job:
        task = self.loop.create_task(work)
        self._tasks[task] = job
        task.add_done_callback(self._tasks.pop)
        return job

    async def _run_task(self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any) -> None:
        answers: list[Any] = []
        accept_callback(0, time.monotonic())
        try:
            await asyncio.to_thread(apply_target, target, args, kwargs, answers.append)
        finally:  # without it Celery would think the slot taken for ever
            callback(answers[0] if answers else (True, _info(None), 0.0))

    def _read(self, request: dict[str, Any], callback: Any, accept_callback: Any) -> StepMessage | None:
        failpoint("before", "message")
        accept_callback(0, time.monotonic())  # acknowledges: the journal, not the broker, makes a step durable
        failpoint("after", "message")
        try:
            body = {**request["kwargs"], "traceparent": request.get("traceparent") or ""}
            return parse_step_message(body, self.app.signing_keys)
        except MessageError as error:
            logger.error("message refused", extra={"task_id": request.get("id"), "error": str(error)})  # noqa: TRY400 - no traceback: nothing of ours failed
            callback((True, _info(error), 0.0))
            return None

    async def _run_steps(self, message: StepMessage, callback: Any) -> None:
        first = message.steps[0]
        ends: dict[StepRef, tuple[AttemptEnd, float]] = {}

        def started(ref: StepRef) -> None:
            ends[ref] = (AttemptEnd("broken off"), time.monotonic())
            if ref is not first:
                self._announce(ref)

        def ended(ref: StepRef, end: AttemptEnd) -> None:
            since = ends.get(ref, (end, time.monotonic()))[1]
            ends[ref] = (end, time.monotonic() - since)
            if ref is not first:
                self._announce_end(ref, end, time.monotonic() - since)

        try:
            await self._process.handle(message, started, ended)
        finally:  # without it Celery would think the slot taken for ever
            end, runtime = ends.get(first, (AttemptEnd("inactive"), 0.0))
            failed = _show_as_failed(end)
            callback((True, _info(self._shown(end.error)), runtime) if failed else (False, end.outcome, runtime))
        if len(self._tasks) >= self.limit and not self._winding_up:  # the hub took no more messages: it may again
            self.loop.stop()

    def _announce(self, ref: StepRef) -> None:
        """Show a packed step in Flower as a task of its own."""
        if self.dispatcher is None or not self.dispatcher.enabled:
            return
        uuid = task_id(ref.run_id, ref.path, ref.attempt)
        self.dispatcher.send(
            "task-received",
            uuid=uuid,
            name=ref.label,
            args=f"run={ref.run_id} step={ref.path} attempt={ref.attempt}",
            kwargs="",
            root_id=ref.run_id,
            parent_id=None,
            retries=0,
            eta=None,
            expires=None,
        )
        self.dispatcher.send("task-started", uuid=uuid)

    def _announce_end(self, ref: StepRef, end: AttemptEnd, runtime: float) -> None:
        if self.dispatcher is None or not self.dispatcher.enabled:
            return
        uuid = task_id(ref.run_id, ref.path, ref.attempt)
        if _show_as_failed(end):
            self.dispatcher.send("task-failed", uuid=uuid, exception=repr(self._shown(end.error)), traceback="")
        else:
            self.dispatcher.send("task-succeeded", uuid=uuid, result=end.outcome, runtime=runtime)

    def _shown(self, error: BaseException | None) -> BaseException | None:
        """What Celery's events, and so Flower, are told of a failure."""
        return RuntimeError(f"{type(error).__name__}, whose text is private") if self.app.private else error

    def run_steps(self, seconds: float) -> None:
        """Let the steps go on while the hub does not turn: the consumer waits for the broker to come back."""
        if self._poller is not None:
            self._poller.detach()
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run_forever()

    def on_stop(self) -> None:
        """Warm shutdown: no new step, a grace for those running, then hand over what is left."""
        self._wind_up(self.app.shutdown_grace_s)

    def on_terminate(self) -> None:
        """Cold shutdown: hand over at once."""
        self._wind_up(0)

    def _wind_up(self, grace_s: float) -> None:
        self._winding_up = True
        if self._poller is not None:
            self._poller.detach()
        self.loop.run_until_complete(self._drain(grace_s))

    async def _drain(self, grace_s: float) -> None:
        ended = await self._process.wind_up(grace_s)
        waiting = [task for task, job in self._tasks.items() if ended or job in self._others]
        if waiting:
            await asyncio.wait(waiting, timeout=_LAST_S)
        await self._process.end()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Nothing: the job itself is terminated."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._tasks)

    @property
    def renewals(self) -> int:
        """See `WorkerProcess.renewals`."""
        return self._process.renewals

    @property
    def num_processes(self) -> int:
        """How many messages may be under way."""
        return int(self.limit)


def _nothing() -> None:
    """What a revoke does to what cannot be stopped."""


def _show_as_failed(end: AttemptEnd) -> bool:
    return end.outcome == "failed" and end.error is not None


def _info(error: BaseException | None) -> ExceptionInfo:
    """What Celery is told of a failure. Never a SystemExit: Celery would raise it here, and end the worker."""
    failure = error if isinstance(error, Exception) else RuntimeError(repr(error) if error else "failed")
    try:
        raise failure  # billiard wants a traceback, which an error that was only made has not
    except type(failure):
        return ExceptionInfo()
