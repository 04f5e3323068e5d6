"""`flujo audit`: whether the books of runs are right."""

from __future__ import annotations

import dataclasses

import typer

from flujo_client.account_audit import AccountAuditor
from flujo_client.audit import Auditor, Difference
from flujo_client.cli.output import JsonOption, counted_words, execute, print_json, print_text
from flujo_client.client import AsyncFlujoClient

__all__ = ["audit", "register"]


def audit(
    run_id: str | None = typer.Argument(None, help="All stored runs, and named accounts, if left out."),
    as_json: bool = JsonOption,
) -> None:
    """Derive every account from what attempts committed, lost and hold; print what differs, and exit with 1 if anything does."""

    async def work() -> tuple[int, list[Difference]]:
        async with AsyncFlujoClient() as client:
            await client.check()
            auditor = Auditor(client.client, client.keyspace)
            run_ids = await auditor.run_ids() if run_id is None else [run_id]
            found = [difference for each in run_ids for difference in await auditor.audit(each)]
            if run_id is None:
                retention_ms = client.settings.retention_s * 1000
                found += await AccountAuditor(client.client, client.keyspace, retention_ms).audit()
            return len(run_ids), found

    runs, differences = execute(work, as_json=as_json)
    if as_json:
        print_json({"runs": runs, "differences": [dataclasses.asdict(difference) for difference in differences]})
    else:
        for found in differences:
            place = f"{found.run_id} account {found.account}"
            print_text(f"{place}: {found.meter} {found.part} is {found.stored} and should be {found.derived}", "red")
        print_text(f"{counted_words(runs, 'run')} audited, {counted_words(len(differences), 'difference')}")
    if differences:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)
