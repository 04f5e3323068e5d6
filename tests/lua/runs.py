"""Runs as the tests of the scripts need them: created, started, claimed and committed in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import redis

from flujo_client.protocol.accounts import AccountRow, account_above, read_accounts
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import (
    Advanced,
    Alarm,
    BranchEnd,
    Claim,
    Committed,
    Dispatch,
    Forbidden,
    LeaseLost,
    LoadedRun,
    Overtaken,
    RunInactive,
    SpecNotKept,
    Split,
    SplitStale,
    SweepPage,
    UnknownAccount,
)
from flujo_client.protocol.scripts import Scripts


async def create_run(
    scripts: Scripts,
    run_id: str = "r1",
    limits: dict[str, int] | None = None,
    fingerprint: str = "f",
    owner: str = POOL,
    spec_hash: str = "h",
    accounts: Sequence[str] = (),
) -> str | UnknownAccount | None:
    terms: dict[str, Any] = {"fingerprint": fingerprint, "owner": owner, "spec_hash": spec_hash, "pipeline": "p"}
    terms |= {
        "input_payload": b"j1",
        "context_payload": b"",
        "limits": limits or {},
        "traceparent": "",
        "metadata": b"",
    }
    while isinstance(status := await scripts.create_run(run_id, **terms, accounts=accounts), SpecNotKept):
        await scripts.keep_spec(run_id, spec_hash, b"{}")
    return status


async def load_run(scripts: Scripts, run_id: str = "r1") -> LoadedRun:
    loaded = await scripts.load_run(run_id, 100)
    assert loaded is not None
    return loaded


def a_dispatch(
    path: str,
    attempt: int = 1,
    estimate: str = "",
    chain: str = "root",
    lost_spend: str = "charge",
    accounts: str = "",
) -> Dispatch:
    terms = f"60000;{lost_spend};{chain};{estimate};input" + (f";{accounts}" if accounts else "")
    return Dispatch(path, attempt, "q", "m:f", "l", terms=terms, task=b"{}")


async def sweep_page(scripts: Scripts, *, period_ms: int = 0, gap_ms: int = 60_000, most: int = 10) -> SweepPage | None:
    """What a sweep by manager `m` gets."""
    return await scripts.sweep(
        "m", 0, advanced=0, period_ms=period_ms, gap_ms=gap_ms, ttl_ms=2_500, stale_ms=1_000, most=most
    )


async def advance_run(
    scripts: Scripts,
    loaded: LoadedRun,
    *dispatches: Dispatch,
    operation: str | None = None,
    status: str | None = None,
    splits: tuple[Split, ...] = (),
    ends: tuple[BranchEnd, ...] = (),
    opening: bool = False,
    alarms: tuple[Alarm, ...] = (),
) -> Advanced | Overtaken | SplitStale | Forbidden:
    return await scripts.advance(
        loaded,
        operation or uuid4().hex,
        applied=loaded.events[-1].id if loaded.events else loaded.record["applied"],
        status=status,
        error=b"",
        suspect_ms=2000,
        nodes={"root": b"{}"},
        splits=splits,
        branch_ends=ends,
        dispatches=dispatches,
        opening=opening,
        alarms=alarms,
    )


async def started_run(scripts: Scripts, *dispatches: Dispatch, limits: dict[str, int] | None = None) -> None:
    await create_run(scripts, limits=limits)
    await scripts.register("incarnations", "w1", 60_000, 0)
    assert isinstance(await advance_run(scripts, await load_run(scripts), *dispatches), Advanced)


def new_claim(path: str = "0", attempt: int = 1, incarnation: str = "w1") -> Claim:
    return Claim("r1", path, attempt, uuid4().hex, incarnation, "q")


async def commit_claim(
    scripts: Scripts, claim: Claim, usage: dict[str, int] | None = None, kind: str = "succeeded"
) -> Committed | LeaseLost | RunInactive:
    return await scripts.commit(
        claim,
        POOL,
        kind=kind,
        usage=usage or {},
        output=b"j2",
        result=b"j{}",
        context=b"",
        context_form="",
        data=b"{}",
    )


def account_of(client: redis.Redis, keyspace: Keyspace, account: str = "root", meter: str = "tokens") -> dict[str, int]:
    rows = {row.account: row for row in accounts_of(client, keyspace) if row.meter == meter}
    row = rows.get(account, AccountRow(account, meter, 0))
    parts = ("granted", "reserved", "spent", "unknown", "children", "overrun")
    return {part: getattr(row, part) for part in parts}


def accounts_of(client: redis.Redis, keyspace: Keyspace) -> list[AccountRow]:
    fields = cast("dict[bytes, bytes]", client.hgetall(keyspace.run("r1").accounts))
    return read_accounts({name.decode(): value.decode() for name, value in fields.items()})


def check_accounts(rows: list[AccountRow], caps: dict[str, int]) -> None:
    """Conservation: in every account granted = free + reserved + spent + unknown + children, nothing is negative, what an
    account granted is what its children have, what it holds is what they use, and the caps stand."""
    known = {(row.account, row.meter): row for row in rows}
    below: dict[tuple[str, str], list[AccountRow]] = {}
    for row in rows:
        parts = (row.free, row.reserved, row.spent, row.unknown, row.children, row.overrun, row.held)
        assert min(parts) >= 0, row
        assert row.granted == row.free + row.reserved + row.spent + row.unknown + row.children, row
        above = account_above(row.account, row.meter, known)
        if above is not None:
            below.setdefault((above.account, above.meter), []).append(row)
    for row in rows:
        children = below.get((row.account, row.meter), [])
        assert row.children == sum(child.granted for child in children), (row, children)
        assert row.held == sum(child.use for child in children), (row, children)
    for meter, cap in caps.items():
        assert known["root", meter].granted == cap
        assert sum(row.reserved + row.spent + row.unknown for row in rows if row.meter == meter) <= cap
