"""`flujo up`: a whole installation on this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import typer

from flujo_client.cli.modules import require_modules
from flujo_client.cli.output import console, execute
from flujo_client.cli.stack import Stack

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(up)


def up(
    modules: list[str] = typer.Argument(help="Modules with pipelines."),
    workers: int = typer.Option(2, "--workers", min=1),
    concurrency: int | None = typer.Option(None, "--concurrency", help="Steps at once in each worker; default: 100."),
    port: int | None = typer.Option(None, "--port", help="Of Redis; a free one by default."),
    flower_port: int | None = typer.Option(None, "--flower-port"),
    flower: bool = typer.Option(True, "--flower/--no-flower"),
    data_dir: Path = typer.Option(Path("flujo-data"), "--data-dir", help="Runs survive in it."),
) -> None:
    """Run Redis, a manager, workers and Flower on this machine until Ctrl-C. Nothing needs to be installed by hand."""
    logging.basicConfig(level="WARNING", format="%(message)s")

    async def work() -> None:
        require_modules(",".join(modules))
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stack = Stack(
            data_dir.resolve(),
            ",".join(modules),
            workers=workers,
            concurrency=concurrency,
            redis_port=port,
            flower_port=flower_port,
            flower=flower,
        )
        async with stack:
            console.print(f"export FLUJO_URL={stack.url}")
            absent = "is not installed: pip install flower" if flower else "is switched off"
            console.print(f"Flower  {stack.flower_url or absent}")
            console.print(f"logs    {data_dir / 'logs'}")
            console.print("submit  flujo submit PIPELINE INPUT --wait      (Ctrl-C ends everything)")
            await stop.wait()

    execute(work, as_json=False)
