"""Commands that stay: worker, manager, flower."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time

import typer

from flujo_client.cli.health import HealthOption, ask_health
from flujo_client.cli.modules import require_modules
from flujo_client.cli.output import execute
from flujo_client.client import AsyncFlujoClient
from flujo_client.engine import QueuedEngine
from flujo_client.protocol.health import HealthKeeper, Progress
from flujo_client.protocol.logs import FactsFormatter
from flujo_client.protocol.queues import DEFAULT_QUEUE, SUBMIT_QUEUE, broker_queue
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.tracing import configure_sdk

__all__ = ["register"]

#: What a manager that is of no use gets to hand over its runs, s.
_LEAVE_S = 15.0


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (worker, manager):
        app.command()(command)


def worker(
    pipelines: str | None = typer.Option(None, "--pipelines", help="Modules to import; default: FLUJO_PIPELINES."),
    queues: str = typer.Option(DEFAULT_QUEUE, "--queues", help="Queues of steps to serve, comma separated."),
    concurrency: int | None = typer.Option(
        None, "--concurrency", help="Steps at once; default: 100, or a process per core."
    ),
    pool: str | None = typer.Option(None, "--pool", help="asyncio, prefork or threads; default: FLUJO_POOL."),
    loglevel: str = typer.Option("WARNING", "--loglevel"),
    health: bool = HealthOption,
) -> None:
    """Serve steps: becomes a Celery worker, with all of Celery's signals and remote control."""
    if health:
        ask_health()
    environment = dict(os.environ)
    if pipelines is not None:
        environment["FLUJO_PIPELINES"] = pipelines
    if pool is not None:
        environment["FLUJO_POOL"] = pool

    if not environment.get("FLUJO_PIPELINES"):
        sys.stderr.write(
            "flujo: this worker has no pipelines: it starts runs that others submit, and gives their steps back; "
            "name modules with --pipelines or FLUJO_PIPELINES\n"
        )
    settings = execute(lambda: _check(Settings.from_env(environment)), as_json=False)
    names = [broker_queue(settings.namespace, queue.strip()) for queue in (*queues.split(","), SUBMIT_QUEUE)]
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "flujo_worker.app",
        "worker",
        "-Q",
        ",".join(names),
        "-l",
        loglevel,
    ]
    command += ["-n", f"flujo-{os.getpid()}@%h", "--without-gossip", "--without-mingle"]
    if concurrency is not None:
        command += ["-c", str(concurrency)]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    os.execve(sys.executable, command, environment)


async def _check(settings: Settings) -> Settings:
    """Find what would stop a worker while the error can still be one line: Celery logs it with a traceback, or goes on.

    Raises:
        StateUnavailableError, UnsafeRedisError: As `connection.check_server`.
        ConfigurationError: As `require_modules`.
    """
    require_modules(settings.pipelines)
    async with AsyncFlujoClient(settings=settings) as client:
        await client.check()
    return settings


def manager(loglevel: str = typer.Option("WARNING", "--loglevel"), health: bool = HealthOption) -> None:
    """Drive the pool's runs, any number of managers at once; SIGTERM stops it without losing anything."""
    if health:
        ask_health()
    private = execute(_has_keys, as_json=False)
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", private=private))
    logging.basicConfig(level=loglevel.upper(), handlers=[handler])
    configure_sdk("flujo-manager")
    useless = threading.Event()
    execute(lambda: _serve_pool(useless), as_json=False)
    if useless.is_set():
        raise typer.Exit(1)


async def _has_keys() -> bool:
    """Whether payloads are encrypted here. Raises `SettingsError`."""
    return bool(Settings.from_env().sealing_keys)


async def _serve_pool(useless: threading.Event) -> None:
    """Drive the pool's runs until a signal comes, or the process is of no use any more.

    Args:
        useless: Set in the last case.
    """
    settings, stop, loop = Settings.from_env(), asyncio.Event(), asyncio.get_running_loop()

    def leave() -> None:
        useless.set()
        loop.call_soon_threadsafe(stop.set)
        time.sleep(_LEAVE_S)
        os._exit(1)  # its loop stands still

    engine = QueuedEngine(settings, serves_pool=True)
    progress = Progress(engine.service.signs(), settings.loop_stall_s)
    keeper = HealthKeeper("manager", progress, settings.health_port, leave)
    for number in (signal.SIGTERM, signal.SIGINT):  # before anybody can know that it is there
        loop.add_signal_handler(number, stop.set)
    await engine.open()
    keeper.start()
    logging.getLogger(__name__).info("serving the pool as %s", engine.service.manager_id)
    stopping, serving = asyncio.create_task(stop.wait()), asyncio.create_task(engine.wait())
    await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
    keeper.rest()
    stopping.cancel()
    await engine.close()
    if serving.done() and not serving.cancelled():
        serving.result()
