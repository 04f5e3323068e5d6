"""The Celery app of a worker: `celery -A flujo_worker.app worker`, or `flujo worker`."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps
from celery.signals import (
    after_setup_logger,
    celeryd_after_setup,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)
from celery.worker import state
from kombu import Queue

from flujo_client.protocol.errors import FlujoError
from flujo_client.protocol.health import HealthKeeper, Progress
from flujo_client.protocol.logs import FactsFormatter
from flujo_client.protocol.queues import DEFAULT_QUEUE, SUBMIT_QUEUE, broker_queue
from flujo_client.protocol.settings import Settings
from flujo_worker.consumer import PATIENT_CONSUMER, StepEvents
from flujo_worker.notice import EndingNotice
from flujo_worker.pool import AsyncioPool, WorkerApp
from flujo_worker.process import WorkerProcess, publish_specs
from flujo_worker.registry import Registry
from flujo_worker.signs import ConsumerSigns
from flujo_worker.tasks import ProcessLoop, register_tasks
from flujo_worker.telemetry import set_up_telemetry
from flujo_worker.transport import GUARDED_REDIS

__all__ = ["create_app"]

_POOLS = {"asyncio": "flujo_worker.pool:AsyncioPool", "prefork": "prefork", "threads": "threads"}

#: Attempts at once by default: async steps wait far more than they compute; a process per core where they compute.
_ASYNC_SLOTS = 100


#: What Celery gets to end a worker that is of no use, beyond the steps' grace, s.
_LEAVE_S = 15.0


def create_app(
    settings: Settings, registry: Registry | None = None, queues: tuple[str, ...] = (DEFAULT_QUEUE,)
) -> WorkerApp:
    """Make the app of a worker.

    Args:
        settings: Of the installation.
        registry: What the worker can run; by default what `settings.pipelines` names, imported when the worker starts.
        queues: Served by default; `-Q` of Celery's command line takes broker names such as `flujo.default`.

    Returns:
        An app with the tasks `flujo.step` and `flujo.submit`. Delivery only: it acknowledges early, keeps no results
        and never retries, since the journal in Redis does that (docs/architecture.md).
    """
    app = WorkerApp("flujo", broker=settings.broker)
    app.conf.update(_configuration(settings, queues))
    app.steps["consumer"].add(StepEvents)
    lazy = functools.cache(lambda: registry or Registry.from_modules(settings.pipelines))
    notice = EndingNotice()
    app.make_process = lambda slots: WorkerProcess(settings, lazy(), slots)
    app.shutdown_grace_s, app.signing_keys = settings.shutdown_grace_s, settings.signing_keys
    app.private = bool(settings.sealing_keys)
    loop = ProcessLoop(lambda: app.make_process(_slots(app, settings)), notice, settings.shutdown_grace_s)
    register_tasks(app, settings, loop, notice)
    app.signs, app.health = ConsumerSigns(), None
    app.steps["worker"].add(_beginning_and_end(app, notice, settings, lazy))
    _set_up_logs(app)
    _watch_health(app, settings)

    @celeryd_after_setup.connect(weak=False)  # type: ignore[untyped-decorator]
    def options_are_read(instance: Any, **_: Any) -> None:
        app.conf.worker_concurrency = instance.concurrency  # -c of Celery's command line says it to the worker alone
        consume_without_acknowledgement(app, settings)

    @worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def start_child(**_: Any) -> None:
        notice.forked()
        if app.health is not None:
            app.health.forked()
        set_up_telemetry()

    @worker_process_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    @worker_shutdown.connect(weak=False)  # type: ignore[untyped-decorator]
    def stop(**_: Any) -> None:
        loop.stop()

    return app


def _set_up_logs(app: WorkerApp) -> None:
    """Say in each line which run, and nothing of what runs work on."""

    @after_setup_logger.connect(weak=False)  # type: ignore[untyped-decorator]
    def say_which_run(logger: Any, format: str, **_: Any) -> None:
        for handler in logger.handlers:
            handler.setFormatter(FactsFormatter(format, private=app.private))
        logging.getLogger("celery.pool").setLevel(
            logging.INFO
        )  # its DEBUG shows messages whole, inputs of submissions too


def _watch_health(app: WorkerApp, settings: Settings) -> None:
    """Watch this process from the moment it takes messages: not before the pool forks, which copies no thread."""

    def leave() -> None:
        state.should_stop = 1  # the exit code: the consumer looks at it with every turn
        time.sleep(settings.shutdown_grace_s + _LEAVE_S)
        os._exit(1)  # it turns no more

    @worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def watch(sender: Any, **_: Any) -> None:
        signs: dict[str, Callable[[], Any]] = {"loop": lambda: app.signs.turns, "broker": lambda: app.signs.heard}
        if isinstance(sender.pool, AsyncioPool):
            signs["lease"] = lambda: sender.pool.renewals
        try:
            app.health = HealthKeeper("worker", Progress(signs, settings.loop_stall_s), settings.health_port, leave)
        except FlujoError as error:
            raise SystemExit(f"flujo: {error}") from error
        app.health.start()


def _slots(app: Celery, settings: Settings) -> int:
    """Steps at once in one process: a child of prefork has one, so that there are as many as children."""
    return 1 if settings.pool == "prefork" else int(app.conf.worker_concurrency or 1)


def consume_without_acknowledgement(app: Celery, settings: Settings) -> None:
    """Do so on Redis with every queue of steps that `-Q` named: Celery makes those that the configuration lacks.

    The strategy of `flujo.step` acknowledges nothing there. Messages that wait for it use up the worker's credit: after
    as many steps as it has slots it would take no more.
    """
    submit = broker_queue(settings.namespace, SUBMIT_QUEUE)
    for name, queue in app.amqp.queues.consume_from.items():
        if name != submit:
            queue.no_ack = settings.broker_kind == "redis"


def _beginning_and_end(
    app: WorkerApp, notice: EndingNotice, settings: Settings, registry: Callable[[], Registry]
) -> type[bootsteps.StartStopStep]:
    """A step of the worker's own: made before the pool forks, and told of the end before Celery waits for the pool, however it came.

    Whatever a module of pipelines raises ends the worker. Celery would log what a receiver of its signals raises, and serve
    without the pipelines.
    """

    class BeginningAndEnd(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
        def __init__(self, worker: Any, **options: Any) -> None:
            super().__init__(worker, **options)
            notice.open()
            if settings.pool != "prefork":
                set_up_telemetry()
            try:
                asyncio.run(publish_specs(settings, registry()))
            except FlujoError as error:
                raise SystemExit(f"flujo: {error}") from error

        def close(self, worker: Any) -> None:
            notice.give()
            if app.health is not None:
                app.health.rest()

    return BeginningAndEnd


def _configuration(settings: Settings, queues: tuple[str, ...]) -> dict[str, Any]:
    redis_broker = settings.broker_kind == "redis"
    arguments = None if redis_broker else {"x-queue-type": "quorum"}
    names = [broker_queue(settings.namespace, queue) for queue in queues]
    submit = broker_queue(settings.namespace, SUBMIT_QUEUE)
    step_queues = [Queue(name, routing_key=name, queue_arguments=arguments, no_ack=redis_broker) for name in names]
    configuration: dict[str, Any] = {
        "task_queues": [*step_queues, Queue(submit, routing_key=submit, queue_arguments=arguments)],
        "task_default_queue": names[0],
        "task_create_missing_queue_type": "classic" if redis_broker else "quorum",
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": not redis_broker,  # on RabbitMQ the unacknowledged messages are what bounds the intake
        "worker_consumer": PATIENT_CONSUMER,
        "worker_pool": _POOLS[settings.pool],
        "worker_concurrency": _ASYNC_SLOTS if settings.pool == "asyncio" else os.cpu_count(),
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": redis_broker,
        "worker_hijack_root_logger": True,
        "broker_connection_retry_on_startup": True,
        "broker_channel_error_retry": True,  # an error is what a Redis that fails over replies to BRPOP
        "broker_transport": GUARDED_REDIS if redis_broker else None,
        "broker_transport_options": _transport_options(redis_broker),
    }
    return configuration


def _transport_options(redis_broker: bool) -> dict[str, Any]:
    if not redis_broker:
        return {"confirm_publish": True}
    return {
        "socket_timeout": 3,  # kombu's own commands block the loop of the steps: through a dead link, for this long
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 4,  # a BRPOP without a reply for 5 s is given up: nobody stays deaf for 10
        "visibility_timeout": 3600,
    }


def _app_for_command_line() -> WorkerApp:
    """The app that `celery -A flujo_worker.app` finds; settings from FLUJO_*."""
    return create_app(Settings.from_env())


def __getattr__(name: str) -> Any:
    """Make `app` when Celery's command line asks for it, so that importing create_app needs no settings."""
    if name in ("app", "celery"):
        return _command_line_app()
    raise AttributeError(name)


_command_line_app = functools.cache(_app_for_command_line)
