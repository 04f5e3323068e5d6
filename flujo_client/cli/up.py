"""`flujo up`: a whole installation on this machine."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

import typer

from flujo_client.cli.modules import require_modules
from flujo_client.cli.output import execute, print_text
from flujo_client.cli.stack import Stack
from flujo_client.protocol.settings import Settings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(up)


def up(
    modules: list[str] = typer.Argument(help="Modules with pipelines."),
    workers: int = typer.Option(2, "--workers", min=1),
    concurrency: int | None = typer.Option(None, "--concurrency", help="Steps at once in each worker; default: 100."),
    port: int | None = typer.Option(
        None, "--port", help="Of Redis; default: that of the folder before, or a free one."
    ),
    flower_port: int | None = typer.Option(None, "--flower-port"),
    flower: bool = typer.Option(True, "--flower/--no-flower"),
    data_dir: Path = typer.Option(Path("flujo-data"), "--data-dir", help="Runs survive in it."),
) -> None:
    """Run Redis, a manager, workers and Flower on this machine until Ctrl-C. Nothing needs to be installed by hand.

    FLUJO_NAMESPACE, FLUJO_BROKER_URL and the other settings count; FLUJO_URL does not: the Redis is its own.
    """
    logging.basicConfig(level="WARNING", format="%(message)s")

    async def work() -> None:
        require_modules(",".join(modules))
        stack = Stack(
            data_dir.resolve(),
            Settings.from_env(),
            ",".join(modules),
            workers=workers,
            concurrency=concurrency,
            redis_port=port,
            flower_port=flower_port,
            flower=flower,
        )
        async with stack:
            for name, value in stack.exports().items():
                print_text(f"export {name}={value}")
            absent = "is not installed: pip install flower" if flower else "is switched off"
            print_text(f"Flower  {stack.flower_url or absent}")
            print_text(f"logs    {data_dir / 'logs'}")
            print_text("submit  flujo submit PIPELINE INPUT --wait      (Ctrl-C ends everything)")
            with suppress(asyncio.CancelledError):  # Ctrl-C, or SIGTERM: the one way to end it
                await asyncio.Event().wait()

    execute(work, as_json=False)
