"""`flujo history`: runs that a state backend keeps, one of them in full, or what each pipeline cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer
from rich.table import Table

from flujo_client.archive.backend import Document, StateBackend
from flujo_client.archive.opening import close_backend, find_backend
from flujo_client.cli.output import JsonOption, console, execute, print_json, print_text
from flujo_client.cli.trace import draw_trace
from flujo_client.cli.tree import format_amount
from flujo_client.protocol.errors import ConfigurationError, RunNotFoundError, SettingsError
from flujo_client.protocol.quota import COST
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.traces import TraceSpan

__all__ = ["register"]

T = TypeVar("T")

_Pipeline = typer.Option(None, "--pipeline", help="Only runs of this pipeline.")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (history, costs):
        app.command()(command)


def history(
    run_id: str | None = typer.Argument(None, help="Show this run with its steps and trace."),
    pipeline: str | None = _Pipeline,
    status: str | None = typer.Option(None, "--status", help="Only runs that ended so."),
    most: int = typer.Option(50, "--most", min=1, help="Rows."),
    as_json: bool = JsonOption,
) -> None:
    """List the runs that the state backend of FLUJO_STATE_URI keeps, or show one of them."""
    if run_id is not None:
        _show(run_id, as_json)
        return
    runs = _asked(lambda backend: backend.list_runs(status, pipeline, most), as_json)
    if as_json:
        print_json({"runs": runs})
        return
    table = Table("run", "pipeline", "status", "created", "tokens", "cost", box=None)
    for run in runs:
        spent = format_amount(COST, round((run.get("total_cost_usd") or 0) * 1e9))
        facts = (run["pipeline_name"], run.get("status", "running"), run.get("created_at", "")[:19])
        table.add_row(run["run_id"], *facts, str(run.get("total_tokens") or 0), spent)
    console.print(table, crop=False)


def _show(run_id: str, as_json: bool) -> None:
    async def read(backend: StateBackend) -> tuple[Document, list[Document], Document | None]:
        details = await backend.get_run_details(run_id)
        if details is None:
            raise RunNotFoundError(
                f"No run {run_id} is kept.", suggestion="Is it over? `flujo show` has those that run.", run_id=run_id
            )
        return details, await backend.list_run_steps(run_id), await backend.get_trace(run_id)

    details, steps, trace = _asked(read, as_json)
    if as_json:
        print_json({"run": details, "steps": steps, "trace": trace})
        return
    for name, value in details.items():
        print_text(f"{name:18} {value}")
    if trace is not None:
        root = TraceSpan.model_validate(trace)
        console.print(draw_trace(root, root.start_time or 0.0))


def costs(
    days: float | None = typer.Option(None, "--days", min=0, help="Runs created within so many days; default: all."),
    as_json: bool = JsonOption,
) -> None:
    """What the runs of each pipeline have cost, from the state backend's tables."""

    since_ms = 0 if days is None else round((time.time() - days * 86_400) * 1000)
    found = _asked(lambda backend: backend.costs_by_pipeline(since_ms), as_json)
    if as_json:
        print_json({"pipelines": [dataclasses.asdict(row) for row in found]})
        return
    table = Table("pipeline", "runs", "not completed", "tokens", "cost", box=None)
    for row in found:
        spent = format_amount(COST, row.cost_nanousd)
        table.add_row(row.pipeline_name, str(row.runs), str(row.failed), str(row.tokens), spent)
    console.print(table, crop=False)


def _asked(ask: Callable[[StateBackend], Awaitable[T]], as_json: bool) -> T:
    """What the backend answers, or one line of error."""

    async def work() -> T:
        uri = Settings.from_env().state_uri
        if uri is None:
            raise SettingsError(
                "FLUJO_STATE_URI is not set: no backend keeps finished runs.",
                suggestion="Set it for `flujo manager` and here, such as sqlite:////var/lib/flujo/runs.db.",
            )
        backend = find_backend(uri)
        if backend is None:
            raise ConfigurationError(
                f"FLUJO_STATE_URI names {uri.partition('://')[2]}, which there is not: no run was kept there yet.",
                suggestion="Correct it, or set it for `flujo manager` as well, which keeps the runs that have ended.",
            )
        try:
            return await ask(backend)
        except NotImplementedError as error:
            raise ConfigurationError(
                f"{type(backend).__name__} does not answer that.", suggestion="Use sqlite:///… or postgresql://…."
            ) from error
        finally:
            await close_backend(backend)

    return execute(work, as_json=as_json)
