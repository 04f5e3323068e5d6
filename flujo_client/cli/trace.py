"""`flujo trace`: a run's trace tree, built from what the run recorded anyway."""

from __future__ import annotations

import typer
from rich.text import Text
from rich.tree import Tree

from flujo_client.cli.output import JsonOption, console, execute, print_json
from flujo_client.cli.tree import format_ms
from flujo_client.client import AsyncFlujoClient
from flujo_client.protocol.traces import TraceSpan

__all__ = ["draw_trace", "register"]

_STYLES = {"completed": "green", "failed": "red", "paused": "yellow", "running": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(trace)


def trace(run_id: str, as_json: bool = JsonOption) -> None:
    """Show a run's trace: when each step ran and for how long, its retries, its inputs; also while it runs."""

    async def work() -> TraceSpan:
        async with AsyncFlujoClient() as client:
            await client.check()
            return await client.run(run_id).trace()

    root = execute(work, as_json=as_json)
    if as_json:
        print_json(root)
    else:
        console.print(draw_trace(root, root.start_time or 0.0))


def draw_trace(span: TraceSpan, began: float) -> Tree:
    """A span and those below it; times count from the run's beginning.

    Args:
        began: Of the run, seconds since the epoch.
    """
    facts = [] if span.start_time is None else [f"+{format_ms(_ms(span.start_time - began))}"]
    if span.start_time is not None and span.end_time is not None:
        facts.append(format_ms(_ms(span.end_time - span.start_time)))
    line = Text.assemble(
        (span.name, "bold"), "  ", (span.status, _STYLES[span.status]), ("  " + "  ".join(facts), "dim")
    )
    for event in span.events:
        told = ", ".join(f"{name}={value}" for name, value in event.attributes.items())
        line.append(f"\n{event.name}  +{format_ms(_ms(event.timestamp - began))}  {told}", style="dim")
    tree = Tree(line)
    for child in span.children:
        tree.children.append(draw_trace(child, began))
    return tree


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
