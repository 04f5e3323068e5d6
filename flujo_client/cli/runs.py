"""Commands about runs: run, submit, runs, show, cancel."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Coroutine
from typing import Any

import pydantic_core
import typer

from flujo_client.account_book import AccountStatus
from flujo_client.cli.accounts import statuses
from flujo_client.cli.modules import pipeline_of
from flujo_client.cli.output import JsonOption, console, execute, parse_input, print_json, print_text
from flujo_client.cli.tree import draw_budget, draw_named, draw_runs, draw_tree, state_of
from flujo_client.client import AsyncFlujoClient, AsyncRun
from flujo_client.protocol.quota import METER_NAME, UsageLimits, amount_words
from flujo_client.protocol.results import Pause, PipelineResult, RunStatus
from flujo_client.protocol.spec import LATEST
from flujo_client.protocol.tracing import configure_sdk
from flujo_client.runner import Flujo
from flujo_client.snapshots import NodeRow, RunSnapshot

__all__ = ["register", "snapshot_document"]

_BudgetUsd = typer.Option(None, "--budget-usd", min=0, help="Most that the run may cost, USD.")
_BudgetTokens = typer.Option(None, "--budget-tokens", min=0, help="Most tokens that the run may use.")


def _meters(texts: list[str]) -> list[str]:
    for text in texts:
        if not re.fullmatch(rf"({METER_NAME.pattern})=\d+", text):
            raise typer.BadParameter(f"'{text}' is not a meter and the most of it, such as pages=20.")
    return texts


_BudgetMeters = typer.Option(
    [], "--budget", metavar="METER=MOST", callback=_meters, help="Most of a meter that steps count; again for more."
)
_StrictEstimates = typer.Option(
    False, "--strict-estimates", help="Refuse steps without an estimate of what is limited."
)
_RunId = typer.Option(None, "--run-id", help="Names the run and makes the command idempotent.")
#: How to answer what `flujo run` is asked, by where it ran.
_ANSWERED_LATER = "flujo resume {} ANSWER"
_ENDED_HERE = "it ran in this process and ended with it; with --url or FLUJO_URL it waits for `flujo resume`"

#: Exit code of a run that waits for an answer.
_PAUSED = 3

_Input = typer.Argument(help="JSON, or a plain string; - reads stdin.")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (run, submit, runs, show, cancel):
        app.command()(command)


def run(
    target: str = typer.Argument(help="MODULE, or MODULE:PIPELINE when it has several."),
    value: str = _Input,
    url: str | None = typer.Option(None, "--url", help="Queue the steps there; default: FLUJO_URL, else in process."),
    run_id: str | None = _RunId,
    budget_usd: float | None = _BudgetUsd,
    budget_tokens: int | None = _BudgetTokens,
    budget: list[str] = _BudgetMeters,
    strict_estimates: bool = _StrictEstimates,
    as_json: bool = JsonOption,
) -> None:
    """Run a pipeline here and print its result: in process, or on workers if there is a URL."""

    configure_sdk("flujo")

    def work() -> Coroutine[Any, Any, tuple[PipelineResult, bool]]:
        pipeline = pipeline_of(target)  # outside of the loop
        limits = _limits(budget_usd, budget_tokens, budget, strict_estimates=strict_estimates)
        offered = vars(sys.modules[target.partition(":")[0]])  # what a worker takes from the module as well
        resources, context_model = offered.get("flujo_resources"), offered.get("flujo_context_model")
        flujo = Flujo(pipeline, url=url, usage_limits=limits, resources=resources, context_model=context_model)
        return _ran(flujo, parse_input(value), run_id)

    result, queued = execute(work, as_json=as_json)
    _print_result(result, as_json, _ANSWERED_LATER if queued else _ENDED_HERE)


def submit(
    pipeline: str = typer.Argument(help="Name, as workers published it."),
    value: str = _Input,
    version: str = typer.Option(LATEST, "--version", help="Of the pipeline; default: what was published last."),
    run_id: str | None = _RunId,
    budget_usd: float | None = _BudgetUsd,
    budget_tokens: int | None = _BudgetTokens,
    budget: list[str] = _BudgetMeters,
    strict_estimates: bool = _StrictEstimates,
    accounts: list[str] = typer.Option([], "--account", help="Named account that pays as well; again for more."),
    deadline_s: float | None = typer.Option(None, "--deadline", help="Cancel it if it has not ended in so many s."),
    wait: bool = typer.Option(False, "--wait", help="Wait for the result and print it."),
    timeout_s: float | None = typer.Option(None, "--timeout", help="Longest wait, s; the run goes on after it."),
    as_json: bool = JsonOption,
) -> None:
    """Start a run of a published pipeline."""
    configure_sdk("flujo")

    async def work() -> tuple[str, PipelineResult | list[Pause] | None]:
        async with AsyncFlujoClient() as client:
            limits = _limits(budget_usd, budget_tokens, budget, strict_estimates=strict_estimates)
            started = await client.submit(
                pipeline,
                parse_input(value),
                run_id=run_id,
                version=version,
                usage_limits=limits,
                deadline_s=deadline_s,
                accounts=accounts,
            )
            return started.run_id, await _awaited(started, timeout_s) if wait else None

    name, result = execute(work, as_json=as_json)
    if isinstance(result, PipelineResult):
        _print_result(result, as_json)
    elif result is not None:
        _print_questions(name, result, as_json)
    elif as_json:
        print_json({"run_id": name})
    else:
        print_text(f"{name}  (flujo watch {name})")


def runs(most: int = typer.Option(50, "--most", min=1, help="Rows."), as_json: bool = JsonOption) -> None:
    """List runs: those under way, then those that have ended and are still stored."""

    async def work() -> list[Any]:
        async with AsyncFlujoClient() as client:
            await client.check()
            return list(await client.inspector.runs(most))

    found = execute(work, as_json=as_json)
    if as_json:
        print_json({"runs": [dataclasses.asdict(summary) for summary in found]})
        return
    console.print(draw_runs(found), crop=False)


def show(
    run_id: str,
    budget: bool = typer.Option(False, "--budget", help="Show the account of every branch, not of the run alone."),
    as_json: bool = JsonOption,
) -> None:
    """Show a run: its tree with attempts, time, tokens and money, and its budget."""

    async def work() -> tuple[RunSnapshot, list[AccountStatus]]:
        async with AsyncFlujoClient() as client:
            await client.check()
            found = await client.inspector.snapshot(run_id)
            return found, await statuses(client.accounts, [*found.drawn]) if budget and found.drawn else []

    snapshot, named = execute(work, as_json=as_json)
    if as_json:
        print_json(snapshot_document(snapshot))
        return
    accounts = tuple(row for row in snapshot.accounts if budget or row.account == "root")
    console.print(draw_tree(snapshot))
    if accounts:
        console.print(draw_budget(snapshot, accounts), crop=False)
    if named:
        console.print(draw_named(named, snapshot.drawn), crop=False)
    if budget and not accounts:
        print_text("The run has no limits, hence no accounts.")


def cancel(
    run_id: str, reason: str = typer.Option("cancelled from the command line"), as_json: bool = JsonOption
) -> None:
    """Cancel a run: no step starts any more, running ones are stopped."""

    async def work() -> bool:
        async with AsyncFlujoClient() as client:
            await client.check()
            return await client.run(run_id).cancel(reason)

    done = execute(work, as_json=as_json)
    if as_json:
        print_json({"run_id": run_id, "cancelled": done})
    else:
        print_text(f"{run_id} {'is cancelled' if done else 'had ended before'}")


async def _awaited(run: AsyncRun, timeout_s: float | None) -> PipelineResult | list[Pause]:
    """The result of a run that has ended, or what it asks."""
    while await run.rest(timeout_s) is RunStatus.PAUSED:
        if asked := await run.pauses():  # else somebody has answered meanwhile
            return asked
    return await run.result(timeout_s)


def _print_questions(run_id: str, asked: list[Pause], as_json: bool) -> None:
    if as_json:
        questions = [
            {"token": one.token, "step": one.step_name, "message": one.message, "dead_letter": one.dead_letter}
            for one in asked
        ]
        print_json({"run_id": run_id, "status": RunStatus.PAUSED.value, "questions": questions})
    else:
        for one in asked:
            if one.dead_letter:
                print_text(f"paused: {one.message}")
                continue
            print_text(f"paused: step '{one.step_name}' asks: {' '.join(one.message.split())}")
            print_text(f"  flujo resume {run_id} ANSWER --token {one.token}")
        print_text(f"{run_id}  paused", style="dim")
    raise typer.Exit(_PAUSED)


async def _ran(flujo: Flujo, value: Any, run_id: str | None) -> tuple[PipelineResult, bool]:
    async with flujo:
        return await flujo.run_async(value, run_id=run_id), flujo.queued


def _limits(usd: float | None, tokens: int | None, meters: list[str], *, strict_estimates: bool) -> UsageLimits | None:
    if usd is None and tokens is None and not meters:
        return None
    return UsageLimits(
        total_cost_usd_limit=usd,
        total_tokens_limit=tokens,
        meters={name: int(most) for name, _, most in (text.partition("=") for text in meters)},
        strict_estimates=strict_estimates,
    )


def snapshot_document(snapshot: RunSnapshot) -> dict[str, Any]:
    """What `show` and `watch` print of a run with --json: a node that had not ended when the run did is `stopped`."""
    document = dataclasses.asdict(snapshot)
    for row, node in zip(document["nodes"], snapshot.nodes, strict=True):
        _stop(row, node, snapshot)
    for row, account in zip(document["accounts"], snapshot.accounts, strict=True):
        row["free"] = account.free
    return document


def _stop(row: dict[str, Any], node: NodeRow, snapshot: RunSnapshot) -> None:
    if state_of(node, snapshot) == "stopped":
        row["status"] = "stopped"
    for below, child in zip(row["children"], node.children, strict=True):
        _stop(below, child, snapshot)


def _print_result(result: PipelineResult, as_json: bool, remedy: str = "") -> None:
    if as_json:
        print_json(result)
    else:
        print_text(_output_text(result) if result.success else f"{result.status.value}: {_reason(result, remedy)}")
        usage = ", ".join(amount_words(meter, amount) for meter, amount in result.usage.items())
        print_text(f"{result.run_id}  {result.status.value}  {usage}", style="dim")
    if not result.success:
        raise typer.Exit(_PAUSED if result.status is RunStatus.PAUSED else 1)


def _output_text(result: PipelineResult) -> str:
    """A string as it is, so that it can be piped on; the rest as JSON, as far as it goes."""
    if isinstance(result.output, str):
        return result.output
    return pydantic_core.to_json(result.output, fallback=repr, inf_nan_mode="constants").decode()


def _reason(result: PipelineResult, remedy: str) -> str:
    if result.status is RunStatus.PAUSED:
        return f"{result.final_pipeline_context.pause_message}  ({remedy.format(result.run_id)})"
    return str((result.error or {}).get("message", result.status.value))
