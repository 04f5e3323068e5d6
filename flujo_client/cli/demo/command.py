"""`flujo demo`: real documents through a fleet on this machine, one worker killed on the way, and the proof."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table

from flujo_client.cli.demo.documents import MOST_DOCUMENTS, MOST_WORDS, describe_documents, find_documents
from flujo_client.cli.demo.figures import broken_promises, describe_figures
from flujo_client.cli.demo.killer import Kill, kill_a_holder, recovery_ms
from flujo_client.cli.demo.ledger import LEDGER_VARIABLE, Commit, billed_after_commit, committed_twice, read_ledger
from flujo_client.cli.output import JsonOption, console, execute, print_json
from flujo_client.cli.stack import Stack
from flujo_client.cli.tree import draw_run
from flujo_client.client import AsyncFlujoClient, AsyncRun
from flujo_client.inspection import RunInspector
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.quota import TOKENS, UsageLimits
from flujo_client.protocol.results import PipelineResult
from flujo_client.protocol.settings import Settings
from flujo_client.snapshots import RunSnapshot

__all__ = ["register"]

_WORKERS = 3
_RUN_TIMEOUT_S = 120.0


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(demo)


def demo(
    folder: Path | None = typer.Argument(
        None,
        help=f"Text documents, of which at most {MOST_DOCUMENTS} are read, and at most {MOST_WORDS:,} words of each; "
        "default: this project's README and docs.",
    ),
    out: Path = typer.Option(Path("flujo-demo"), "--out", help="Gets report.html and report.json."),
    as_json: bool = JsonOption,
) -> None:
    """Run a fleet here, send real documents through it, kill a worker in the middle, and prove that nothing was paid twice."""
    logging.basicConfig(level="ERROR")

    async def work() -> dict[str, Any]:
        return await _demo(folder, out.resolve(), quiet=as_json)

    figures = execute(work, as_json=as_json)
    if as_json:
        print_json(figures)
    broken = broken_promises(figures)
    if broken:
        typer.echo(f"flujo: the demo broke its promise: {'; '.join(broken)}.", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Outcome:
    results: list[PipelineResult]
    snapshots: list[RunSnapshot]
    commits: list[Commit]
    kills: list[Kill]


async def _demo(folder: Path | None, out: Path, *, quiet: bool) -> dict[str, Any]:
    try:
        from flujo_client.cli.demo.report import write_report
    except ImportError as error:
        raise ConfigurationError(
            f"The demo needs more packages: {error}.", suggestion="pip install 'flujo-distributed[demo]'"
        ) from error
    found = find_documents(folder)
    documents = found[:MOST_DOCUMENTS]
    with tempfile.TemporaryDirectory(prefix="flujo-demo-") as scratch:
        ledger = Path(scratch) / "ledger.jsonl"
        stack = Stack(
            Path(scratch),
            Settings(),
            "flujo_client.cli.demo.pipeline",
            workers=_WORKERS,
            concurrency=2,
            environment={LEDGER_VARIABLE: str(ledger)},
        )
        if not quiet:
            console.print(
                f"{describe_documents(documents, len(found))}; starting Redis, a manager, {_WORKERS} workers and Flower …"
            )
        async with stack, AsyncFlujoClient(settings=stack.settings) as client:
            if not quiet:
                console.print(f"Redis {stack.url}   Flower {stack.flower_url or 'not installed'}")
            outcome = await _run_all(client, documents, ledger, quiet=quiet)
        figures = _figures(outcome, ledger)
    pages = [
        {"name": name, **result.output}
        for (name, _), result in zip(documents, outcome.results, strict=True)
        if result.success
    ]
    page = write_report(out, figures, pages)
    if not quiet:
        _print(figures, page)
    return figures


async def _run_all(
    client: AsyncFlujoClient, documents: list[tuple[str, str]], ledger: Path, *, quiet: bool
) -> _Outcome:
    from flujo_client.cli.demo.pipeline import RUN_TOKENS

    limits = UsageLimits(total_tokens_limit=RUN_TOKENS)
    runs = await asyncio.gather(
        *(client.submit("demo", {"name": name, "text": text}, usage_limits=limits) for name, text in documents)
    )
    killing = asyncio.create_task(kill_a_holder(client, ledger, after_bills=len(runs)))
    inspector = client.inspector
    watching = asyncio.create_task(_watch(inspector, runs, ledger, killing, quiet=quiet))
    try:
        results = await asyncio.gather(*(run.result(_RUN_TIMEOUT_S) for run in runs))
    finally:  # whatever ends the work, nothing may still ask a Redis that is about to end
        watching.cancel()
        killing.cancel()
        await asyncio.wait([watching, killing])
    if killing.cancelled():
        raise ConfigurationError(
            "No worker held a lease long enough to be killed.",
            suggestion="Name a folder with more or longer documents.",
        )
    snapshots = [await inspector.snapshot(run.run_id) for run in runs]
    commits = [commit for run in runs for commit in await _commits(run)]
    return _Outcome(list(results), snapshots, commits, killing.result())


async def _commits(run: AsyncRun) -> list[Commit]:
    return [
        Commit(run.run_id, event.path, event.fields["nonce"], int(event.id.partition("-")[0]))
        async for event in run.events()
        if event.kind is EventKind.SUCCEEDED
    ]


async def _watch(
    inspector: RunInspector, runs: list[AsyncRun], ledger: Path, killing: asyncio.Task[list[Kill]], *, quiet: bool
) -> None:
    """Draw one run's tree and budget while all go on; a line now and then where nobody can see it move."""
    if quiet:
        return
    began, said = time.monotonic(), False
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            entries = read_ledger(ledger)
            starts, bills = (sum(entry.kind == kind for entry in entries) for kind in ("started", "bill"))
            line = f"{time.monotonic() - began:5.1f} s   {len(runs)} runs   {starts} attempts   {bills} billed"
            if killing.done() and not killing.cancelled() and not said:
                said = True
                kill = killing.result()[-1]
                live.console.print(f"{line}   SIGKILL to worker {kill.pid}, which held {len(kill.lost)} leases")
            live.update(Group(draw_run(await _liveliest(inspector, runs)), line), refresh=True)
            await asyncio.sleep(0.2)


async def _liveliest(inspector: RunInspector, runs: list[AsyncRun]) -> RunSnapshot:
    """The first run that has not ended."""
    for run in runs:
        snapshot = await inspector.snapshot(run.run_id)
        if not snapshot.summary.status.terminal:
            break
    return snapshot


def _figures(outcome: _Outcome, ledger: Path) -> dict[str, Any]:
    entries = read_ledger(ledger)
    steps = [step for snapshot in outcome.snapshots for step in snapshot.steps()]
    granted = [row.granted for snapshot in outcome.snapshots for row in snapshot.accounts if row.account == "root"]
    return {
        "runs": len(outcome.results),
        "completed": sum(result.success for result in outcome.results),
        "steps_committed": len(outcome.commits) - committed_twice(outcome.commits),
        "attempts": sum(step.attempts for step in steps),
        "workers_killed": len(outcome.kills),
        "steps_rerun": sum(step.attempts > 1 for step in steps),
        "committed_twice": committed_twice(outcome.commits),
        "billed_after_commit": billed_after_commit(entries, outcome.commits),
        "tokens_granted": sum(granted),
        "tokens_spent": sum(snapshot.totals.get(TOKENS, 0) for snapshot in outcome.snapshots),
        "tokens_unknown": sum(row.unknown for snapshot in outcome.snapshots for row in snapshot.accounts),
        "recovery_ms_max": recovery_ms(outcome.kills, entries),
    }


def _print(figures: dict[str, Any], page: Path) -> None:
    table = Table("", "", show_header=False, box=None, pad_edge=False)
    for name, value in describe_figures(figures):
        table.add_row(name, value)
    console.print(table)
    console.print(f"report  {page}")
