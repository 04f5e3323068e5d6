"""`flujo accounts`: named accounts above the runs; listed, defined, held back, dropped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Literal

import typer

from flujo_client.account_book import AccountBook, AccountStatus
from flujo_client.cli.output import JsonOption, console, execute, print_json, print_text
from flujo_client.cli.tree import draw_named
from flujo_client.client import AsyncFlujoClient
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits

__all__ = ["register", "statuses"]

_commands = typer.Typer(help="Budgets, rates and slots that runs share.", invoke_without_command=True)

#: Seconds of a unit.
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(_commands, name="accounts")


async def statuses(book: AccountBook, names: list[str] | None = None) -> list[AccountStatus]:
    """How accounts stand: all, or those of some names that are defined."""
    known = await book.names()
    return [await book.status(name) for name in known if names is None or name in names]


@_commands.callback()
def accounts(context: typer.Context, as_json: bool = JsonOption) -> None:
    """List them, with what is spent, reserved and free."""
    if context.invoked_subcommand is not None:
        return

    async def work() -> list[AccountStatus]:
        async with AsyncFlujoClient() as client:
            await client.check()
            return await statuses(client.accounts)

    found = execute(work, as_json=as_json)
    if as_json:
        print_json({"accounts": [_document(status) for status in found]})
    elif found:
        console.print(draw_named(found), crop=False)
    else:
        print_text("no named accounts  (flujo accounts set NAME --help)")


@_commands.command(name="set")
def define(
    name: str,
    cost_usd: float | None = typer.Option(None, "--cost-usd", help="Most money, USD."),
    tokens: int | None = typer.Option(None, "--tokens", help="Most tokens."),
    requests: int | None = typer.Option(None, "--requests", help="Most requests; an attempt is one at least."),
    meters: list[str] = typer.Option([], "--meter", help="Most of another meter, NAME=LIMIT; again for more."),
    slots: int | None = typer.Option(None, "--slots", help="Attempts that may run at once."),
    window: str | None = typer.Option(None, "--per", help="day, month, or a sliding window: 60s, 5m, 2h, 30d."),
    time_zone: str | None = typer.Option(None, "--tz", help="Of days and months; default: UTC."),
    wait: bool = typer.Option(
        False, "--wait", help="Let steps wait when it is exhausted; else their runs are refused."
    ),
    pipelines: list[str] = typer.Option(
        [], "--pipeline", help="Pays for every run of it; NAME or BEGIN*; again for more."
    ),
    no_pipelines: bool = typer.Option(False, "--no-pipelines", help="Pays for no pipeline any more by itself."),
    as_json: bool = JsonOption,
) -> None:
    """Define an account, or define it anew: what it has taken stays taken, unless its window is another; so does what it pays for,
    unless --pipeline or --no-pipelines says otherwise.
    """

    async def work() -> AccountStatus:
        named = {} if requests is None else {"requests": requests}
        limits = UsageLimits(
            total_cost_usd_limit=cost_usd, total_tokens_limit=tokens, meters={**named, **dict(map(_meter, meters))}
        )
        async with AsyncFlujoClient() as client:
            await client.check()
            kept = () if pipelines or no_pipelines else await _paid_for(client.accounts, name)
            await client.accounts.define(
                Account(
                    name=name,
                    limits=limits,
                    slots=slots,
                    window=_window(window),
                    time_zone=_zone(time_zone, window),
                    when_exhausted="wait" if wait else "refuse",
                    pipelines=tuple(pipelines or kept),
                )
            )
            return await client.accounts.status(name)

    status = execute(work, as_json=as_json)
    if as_json:
        print_json(_document(status))
    else:
        console.print(draw_named([status]), crop=False)


async def _paid_for(book: AccountBook, name: str) -> tuple[str, ...]:
    """The pipelines whose runs an account pays for already."""
    return tuple(rule for status in await statuses(book, [name]) for rule in status.rules)


@_commands.command()
def hold(name: str, seconds: float = typer.Argument(min=0), as_json: bool = JsonOption) -> None:
    """Let nobody in for so many seconds, as a provider asks with Retry-After."""

    async def work(client: AsyncFlujoClient) -> None:
        await client.accounts.hold_back(name, timedelta(seconds=seconds))

    _change(work, {"account": name, "held_back_s": seconds}, f"{name} is held back for {seconds:g} s", as_json=as_json)


@_commands.command()
def drop(name: str, as_json: bool = JsonOption) -> None:
    """Forget an account: it limits nobody any more, and those who wait for it go on."""

    async def work(client: AsyncFlujoClient) -> None:
        await client.accounts.drop(name)

    _change(work, {"account": name, "dropped": True}, f"{name} is dropped", as_json=as_json)


def _change(
    work: Callable[[AsyncFlujoClient], Coroutine[Any, Any, None]], document: dict[str, Any], told: str, *, as_json: bool
) -> None:
    async def connected() -> None:
        async with AsyncFlujoClient() as client:
            await client.check()
            await work(client)

    execute(connected, as_json=as_json)
    if as_json:
        print_json(document)
    else:
        print_text(told)


def _meter(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\w+)=(\d+)", text)
    if match is None:
        raise ValueError(f"--meter takes NAME=LIMIT, not {text!r}")
    return match[1], int(match[2])


def _window(text: str | None) -> Literal["day", "month"] | timedelta | None:
    if text is None:
        return None
    if text == "day":
        return "day"
    if text == "month":
        return "month"
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise ValueError(f"--per takes day, month, or a number and s, m, h or d, not {text!r}")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def _zone(time_zone: str | None, window: str | None) -> str:
    if time_zone is not None and window not in ("day", "month"):
        raise ValueError("--tz says when days and months begin; give --per day or --per month with it")
    return time_zone or "UTC"


def _document(status: AccountStatus) -> dict[str, Any]:
    document = dataclasses.asdict(status)
    for meter, row in status.meters.items():
        document["meters"][meter]["free"] = row.free
    return document
