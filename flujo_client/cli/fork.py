"""`flujo fork`: a new run that begins in the middle of another."""

from __future__ import annotations

import typer

from flujo_client.cli.output import JsonOption, execute, print_json, print_text
from flujo_client.client import AsyncFlujoClient
from flujo_client.protocol.spec import LATEST

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(fork)


def fork(
    run_id: str = typer.Argument(help="The run whose earlier steps are used again."),
    step: str = typer.Option(..., "--from", help="Step to begin with, at any depth: its name, or its path (2, 1.0.2)."),
    pipeline: str | None = typer.Option(None, "--pipeline", help="Published pipeline instead of the run's own."),
    version: str = typer.Option(LATEST, "--version", help="Of that pipeline."),
    new_run_id: str | None = typer.Option(None, "--run-id", help="Of the fork; makes the command idempotent."),
    as_json: bool = JsonOption,
) -> None:
    """Start a run in the middle of another: paid results that do not depend on the step are used again, with context and budget."""

    async def work() -> str:
        async with AsyncFlujoClient() as client:
            forked = await client.fork(run_id, step, pipeline=pipeline, version=version, new_run_id=new_run_id)
            return forked.run_id

    name = execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": name, "forked_from": run_id})
    else:
        print_text(f"{name}  (flujo watch {name})")
