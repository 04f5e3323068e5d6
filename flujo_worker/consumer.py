"""Celery's consumer, fitted to the pool: steps go on while the broker is away, and cost no acknowledgement."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from celery.worker.strategy import default as default_strategy
from kombu.exceptions import OperationalError

from flujo_worker.pool import AsyncioPool

__all__ = ["PATIENT_CONSUMER", "STEP_STRATEGY", "PatientConsumer", "StepEvents", "step_strategy"]

#: How Celery finds `PatientConsumer` and `step_strategy`.
PATIENT_CONSUMER = "flujo_worker.consumer:PatientConsumer"
STEP_STRATEGY = "flujo_worker.consumer:step_strategy"

logger = logging.getLogger(__name__)

#: Between two tries to reach the broker. Celery waits 2, 4, 6 … 30 s: too long to be back within five.
_RECONNECT_S = 0.5


class PatientConsumer(Consumer):  # type: ignore[misc]  # celery has no types
    """Celery's consumer sleeps until the broker answers, and with it would sleep every step on the pool's loop."""

    def ensure_connected(self, conn: Any) -> Any:
        """Try until the connection stands or the worker is told to end; steps under way go on meanwhile."""
        while True:
            try:
                conn.ensure_connection(max_retries=1, interval_start=0, interval_step=0, interval_max=0)
            except OperationalError as error:
                logger.warning("broker not reached, trying again: %s", error)
                self.app.signs.trying()
                maybe_shutdown()
                self._wait()
            else:
                return conn

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message of a task that no release has. Celery tells it with all of the message and a traceback."""
        logger.error(
            "message dropped: no task of this name; Flujo's are flujo.step and flujo.submit",
            extra={"task": str(message.headers.get("task")), "id": str(message.headers.get("id"))},
        )
        message.reject_log_error(logger, self.connection_errors)

    def _wait(self) -> None:
        if isinstance(self.pool, AsyncioPool):
            self.pool.run_steps(_RECONNECT_S)
        else:
            time.sleep(_RECONNECT_S)


def step_strategy(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's strategy for `flujo.step`, without acknowledgements where the queue needs none.

    On Redis an acknowledgement is two more round trips a message, 60 % of a busy worker's time (measured with py-spy);
    the journal makes steps durable, so these queues are consumed with no_ack, which Celery would acknowledge anyway.
    """
    handle = default_strategy(task, app, consumer, **options)
    if task.acks_late:
        return handle  # type: ignore[no-any-return]  # celery has no types

    def received(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        return handle(message, body, _acknowledged, reject, callbacks, **more)

    return received


def _acknowledged(*_: Any) -> None:
    """The acknowledgement of a message that was consumed without."""


class StepEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Gives the pool the consumer's event dispatcher, so that each packed step has its own entry in Flower; and watches the consumer."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, c: Any) -> None:
        """Called at every (re)connect."""
        if isinstance(c.pool, AsyncioPool):
            c.pool.dispatcher = c.event_dispatcher
        c.app.signs.attach(c, lambda: not isinstance(c.pool, AsyncioPool) or c.pool.busy)
