"""`flujo resume`: answers what a run asks."""

from __future__ import annotations

import sys

import typer

from flujo_client.cli.output import JsonOption, execute, parse_input, print_json, print_text
from flujo_client.client import AsyncFlujoClient
from flujo_client.protocol.errors import ResumeError
from flujo_client.protocol.results import Pause

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(resume)


def resume(
    run_id: str,
    answer: str | None = typer.Argument(None, help="JSON, or a plain string; - reads stdin. Without it you are asked."),
    token: str | None = typer.Option(None, "--token", help="Which question, where the run asks several."),
    as_json: bool = JsonOption,
) -> None:
    """Answer what a run asks. The first answer wins; the run goes on by itself."""

    async def work() -> str | None:
        async with AsyncFlujoClient() as client:
            await client.check()
            handle = client.run(run_id)
            place, given = token, answer
            if given is None:
                pause = _chosen(await handle.pauses(), run_id, token)
                place, given = pause.token, _asked(pause)
            await handle.resume(parse_input(given), place)
            return place

    place = execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": run_id, "resumed": True, "token": place})
    else:
        print_text(f"{run_id} goes on  (flujo watch {run_id})")


def _chosen(pauses: list[Pause], run_id: str, token: str | None) -> Pause:
    found = [pause for pause in pauses if token in (None, pause.token)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{pause.token} ({pause.step_name}: {pause.message})" for pause in pauses)
    raise ResumeError(
        f"Run {run_id} asks {len(pauses)} questions{': ' + known if known else ''}.",
        suggestion="Say which with --token." if known else "",
    )


def _asked(pause: Pause) -> str:
    if not sys.stdin.isatty():
        raise ResumeError(
            f"Step '{pause.step_name}' asks: {pause.message}", suggestion="Give the answer after the run's id."
        )
    answer: str = typer.prompt(f"{pause.step_name}: {pause.message}")
    return answer
