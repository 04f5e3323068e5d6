"""`flujo watch`: follows a run to its end: a picture on a terminal, a line for each change into a pipe, one document for programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import typer
from rich.live import Live

from flujo_client.cli.output import JsonOption, console, execute, print_json
from flujo_client.cli.runs import snapshot_document
from flujo_client.cli.tree import changed_lines, draw_budget, draw_headline, draw_run
from flujo_client.client import AsyncFlujoClient
from flujo_client.snapshots import RunSnapshot

__all__ = ["register"]

#: The run is shown at most this often, and at least every `_CALM_S`: a killed manager makes no event.
_PICTURE_S = 0.1
_CALM_S = 1.0


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(watch)


def watch(run_id: str, as_json: bool = JsonOption) -> None:
    """Follow a run live until it ends: a picture on a terminal, else a line for each change; with --json one document of its end."""

    async def work() -> RunSnapshot:
        async with AsyncFlujoClient() as client:
            await client.check()
            if as_json:
                async for _ in client.run(run_id).events():
                    pass
                return await client.inspector.snapshot(run_id)
            return await (_draw(client, run_id) if console.is_terminal else _tell(client, run_id))

    snapshot = execute(work, as_json=as_json)
    if as_json:
        print_json(snapshot_document(snapshot))


async def _draw(client: AsyncFlujoClient, run_id: str) -> RunSnapshot:
    with Live(draw_run(await client.inspector.snapshot(run_id)), console=console, auto_refresh=False) as live:
        return await _follow(client, run_id, lambda run: live.update(draw_run(run), refresh=True))


async def _tell(client: AsyncFlujoClient, run_id: str) -> RunSnapshot:
    said: dict[str, tuple[str, int]] = {}

    def tell(run: RunSnapshot) -> None:
        for line in changed_lines(run, said):
            console.print(line, soft_wrap=True)

    tell(await client.inspector.snapshot(run_id))
    last = await _follow(client, run_id, tell)
    console.print(draw_headline(last), soft_wrap=True)
    if last.accounts:
        console.print(draw_budget(last, last.accounts), crop=False)
    return last


async def _follow(client: AsyncFlujoClient, run_id: str, show: Callable[[RunSnapshot], None]) -> RunSnapshot:
    """Show a run whenever it has changed, and once it has ended; what it is then."""
    async with aclosing(_changes(client, run_id)) as changes:
        async for _ in changes:
            show(await client.inspector.snapshot(run_id))
    last = await client.inspector.snapshot(run_id)
    show(last)
    return last


async def _changes(client: AsyncFlujoClient, run_id: str) -> AsyncGenerator[None]:
    """Says when to look anew until the run ends. A look costs what the run is wide, so a burst of events is one change."""
    changed = asyncio.Event()

    async def listen() -> None:
        async for _ in client.run(run_id).events():
            changed.set()

    listening = asyncio.create_task(listen())
    try:
        while not listening.done():
            noticed = asyncio.create_task(changed.wait())
            await asyncio.wait([listening, noticed], timeout=_CALM_S, return_when=asyncio.FIRST_COMPLETED)
            noticed.cancel()
            changed.clear()
            yield
            await asyncio.wait([listening], timeout=_PICTURE_S)
        await listening
    finally:
        listening.cancel()
