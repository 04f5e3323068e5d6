"""`AsyncioPool`: Celery hears of every message's end, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.protocol.queues import STEP_TASK
from flujo_worker.attempt import AttemptEnd
from flujo_worker.pool import AsyncioPool, WorkerApp
from flujo_worker.process import WorkerProcess

REF = StepRef(run_id="r", path="0", attempt=1, function="m:f", label="flujo.p.f", owner="pool")
OTHER = REF.model_copy(update={"path": "1"})


class Process:
    """A worker process that does what a test says."""

    def __init__(self) -> None:
        self.end: Callable[[StepRef], AttemptEnd] = lambda ref: AttemptEnd("succeeded")
        self.terminated: list[StepRef] = []

    async def open(self) -> None:
        return None

    async def handle(self, message: StepMessage, started: Any, ended: Any) -> None:
        for ref in message.steps:
            started(ref)
            ended(ref, self.end(ref))

    def terminate(self, ref: StepRef) -> None:
        self.terminated.append(ref)


class Pool(AsyncioPool):
    """A pool over a process of the test's."""

    process = Process()


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A started pool; no hub turns."""
    Pool.process = Process()
    app = WorkerApp()
    app.make_process = lambda slots: cast("WorkerProcess", Pool.process)
    made = Pool(1, app=app)
    made.on_start()
    yield made
    made.loop.close()
    asyncio.set_event_loop(None)


def send(pool: Pool, *refs: StepRef, **body: Any) -> list[tuple[bool, Any, float]]:
    """Apply a message and let the loop run; what Celery is told of its end."""
    answers: list[tuple[bool, Any, float]] = []
    message = StepMessage(queue="default", steps=refs or (REF,)).model_dump(mode="json") | body
    request = {"id": "r", "kwargs": message}
    pool.on_apply(None, (STEP_TASK, "r", request), {}, answers.append, lambda *_: None)  # type: ignore[arg-type]
    turn(pool)
    return answers


def turn(pool: Pool) -> None:
    """Let the loop go round until its tasks are done."""
    while pool._tasks:
        pool.loop.call_soon(pool.loop.stop)
        pool.loop.run_forever()


def test_an_end_is_told_to_celery(pool: Pool) -> None:
    assert send(pool)[0][:2] == (False, "succeeded")

    pool.process.end = lambda ref: AttemptEnd("failed", error=NonRetryableError("no"))
    failed, info, _ = send(pool)[0]

    assert failed
    assert isinstance(info.exception.exc, NonRetryableError)


def test_a_step_that_calls_exit_does_not_end_the_worker(pool: Pool) -> None:
    pool.process.end = lambda ref: AttemptEnd("failed", error=SystemExit(3))

    failed, info, _ = send(pool)[0]

    assert failed
    assert isinstance(info.exception.exc, Exception), "Celery raises a SystemExit that it is told of"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_slot_is_free_again_whatever_happens(pool: Pool) -> None:
    def fault(ref: StepRef) -> AttemptEnd:
        raise LookupError("a fault of ours")

    pool.process.end = fault

    assert send(pool)[0][:2] == (False, "broken off")
    assert pool._tasks == {}


def test_garbage_is_refused(pool: Pool) -> None:
    failed, info, _ = send(pool, steps=[])[0]

    assert failed
    assert "cannot be read" in str(info.exception)


def test_a_revoke_ends_the_step_that_celery_knows_and_none_that_is_packed_with_it(pool: Pool) -> None:
    request = {"id": "r", "kwargs": StepMessage(queue="default", steps=(REF, OTHER)).model_dump(mode="json")}
    args = (STEP_TASK, "r", request)

    pool.on_apply(None, args, {}, lambda _: None, lambda *_: None).terminate()  # type: ignore[arg-type]

    assert pool.process.terminated == [REF]
    turn(pool)


def test_any_other_task_runs_in_a_thread_and_frees_its_slot(pool: Pool) -> None:
    answers: list[Any] = []

    def target(*_: Any) -> Any:
        return True, "done", 0.0

    job = pool.on_apply(target, ("other",), {}, answers.append, lambda *_: None)
    job.terminate()  # a thread cannot be stopped
    turn(pool)

    assert answers == [(True, "done", 0.0)]
