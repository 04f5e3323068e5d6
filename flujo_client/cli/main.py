"""The command line's entry point."""

from __future__ import annotations

from importlib import metadata

import typer

from flujo_client.cli import (
    accounts,
    answers,
    audit,
    background,
    check,
    dead,
    doctor,
    fork,
    history,
    runs,
    services,
    trace,
    up,
    watch,
)
from flujo_client.cli.demo import command as demo

__all__ = ["app", "main"]

app = typer.Typer(help="Flujo pipelines on a fleet of workers.", no_args_is_help=True, pretty_exceptions_enable=False)
runs.register(app)
watch.register(app)
check.register(app)
answers.register(app)
accounts.register(app)
audit.register(app)
trace.register(app)
history.register(app)
fork.register(app)
background.register(app)
services.register(app)
doctor.register(app)
dead.register(app)
up.register(app)
demo.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flujo-distributed {metadata.version('flujo-distributed')}")
        raise typer.Exit


@app.callback()
def options(
    _version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Say which it is."),
) -> None:
    """Flujo pipelines on a fleet of workers."""


def main() -> None:
    """Run the command line."""
    app()
