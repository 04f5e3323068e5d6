"""`flujo dead`: steps that were given up because their workers died; run again, or dropped."""

from __future__ import annotations

import dataclasses

import typer

from flujo_client.cli.output import JsonOption, execute, print_json, print_text
from flujo_client.client import AsyncFlujoClient
from flujo_client.dead import DeadLetter, DeadLetters

__all__ = ["register"]

_commands = typer.Typer(help="Steps that were given up because their workers died.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(_commands, name="dead")


@_commands.callback()
def dead(context: typer.Context, as_json: bool = JsonOption) -> None:
    """List them, with their stories."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> list[DeadLetter]:
        async with AsyncFlujoClient() as client:
            await client.check()
            return await DeadLetters(client).letters()

    letters = execute(work, as_json=as_json)
    if as_json:
        print_json({"dead": [dataclasses.asdict(letter) for letter in letters]})
        return
    for letter in letters:
        state = "waits" if letter.waits else "failed"
        print_text(f"{letter.run_id}  {letter.pipeline}  {letter.path}  {state}  {letter.story}")
    if not letters:
        print_text("no dead letters")


@_commands.command()
def retry(run_id: str, as_json: bool = JsonOption) -> None:
    """Run them again: in place where the run waits, else in a fork, which pays for nothing that was paid before."""

    async def work() -> str:
        async with AsyncFlujoClient() as client:
            await client.check()
            return await DeadLetters(client).retry(run_id)

    goes_on = execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": run_id, "goes_on_as": goes_on})
    else:
        print_text(f"{goes_on} goes on  (flujo watch {goes_on})")


@_commands.command()
def drop(run_id: str, as_json: bool = JsonOption) -> None:
    """Give them up for good: a run that waits for them fails."""

    async def work() -> None:
        async with AsyncFlujoClient() as client:
            await client.check()
            await DeadLetters(client).drop(run_id)

    execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": run_id, "dropped": True})
    else:
        print_text(f"the dead letters of {run_id} are dropped")
