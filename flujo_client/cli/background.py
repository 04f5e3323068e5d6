"""`flujo background`: the background steps of a run, what became of them, and going on without one."""

from __future__ import annotations

from typing import Any

import typer
from pydantic_core import to_jsonable_python

from flujo_client.background import BackgroundTask
from flujo_client.cli.output import JsonOption, execute, print_json, print_text
from flujo_client.client import AsyncFlujoClient

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(background)


def background(
    run_id: str = typer.Argument(help="The run."),
    cancel: str | None = typer.Option(
        None, "--cancel", help="Id of a background task that the run is to go on without."
    ),
    as_json: bool = JsonOption,
) -> None:
    """List a run's background steps with their results; or cancel one of them."""

    async def work() -> tuple[list[BackgroundTask], bool]:
        async with AsyncFlujoClient() as client:
            await client.check()
            run = client.run(run_id)
            cancelled = cancel is not None and await run.cancel_background(cancel)
            return await run.background_tasks(), cancelled

    tasks, cancelled = execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": run_id, "tasks": [_json(task) for task in tasks], "cancelled": cancelled})
        return
    if cancel is not None:
        print_text(f"{cancel} is cancelled" if cancelled else f"{cancel} had ended before")
    for task in tasks:
        told = task.error or ("" if task.result is None else task.result.output)
        print_text(f"{task.task_id}  {task.step_name}  {task.path}  {task.status}  {told}")
    if not tasks:
        print_text("no background steps")


def _json(task: BackgroundTask) -> dict[str, Any]:
    facts: dict[str, Any] = to_jsonable_python(task, fallback=repr)
    return {name: fact for name, fact in facts.items() if name not in ("context", "run_id")}
