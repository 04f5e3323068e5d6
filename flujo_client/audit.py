"""Audits budgets: derives every account of a run from what its attempts committed, lost and hold, and names what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from redis.exceptions import RedisError

from flujo_client.protocol.accounts import AccountRow, account_above, read_accounts
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import RunNotFoundError, StateUnavailableError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.quota import parse_amounts

__all__ = ["Auditor", "Difference", "audit_accounts", "audit_tree"]

#: Sums of a part of an account, by account and meter.
_Sums = dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of an account that is not what follows from the rest; `derived` is what it should be."""

    run_id: str
    account: str
    meter: str
    part: str
    stored: int
    derived: int


class Auditor:
    """Audits stored runs. Writes nothing.

    Args:
        client: Redis with replies as bytes; owned by the caller.
        keyspace: Makes the keys.
    """

    def __init__(self, client: RedisClient, keyspace: Keyspace) -> None:
        self._client = client
        self._keyspace = keyspace

    async def run_ids(self) -> list[str]:
        """Every run that is stored."""
        found: set[str] = set()
        for shard in range(self._keyspace.shards):
            for name in ("active", "finished"):
                found |= {
                    run_id.decode() for run_id in await self._client.zrange(self._keyspace.shard(name, shard), 0, -1)
                }
        return sorted(found)

    async def audit(self, run_id: str) -> list[Difference]:
        """What is wrong with a run's accounts: nothing, if the engine keeps its promises. One moment of the run is seen.

        Raises:
            RunNotFoundError: No such run.
            StateUnavailableError: Redis does not answer.
        """
        keys = self._keyspace.run(run_id)
        pipeline = self._client.pipeline(transaction=True)
        for key in (keys.run, keys.accounts, keys.attempts):
            pipeline.hgetall(key)
        pipeline.zrange(keys.waiters, 0, -1)
        try:
            *hashes, waiters = await pipeline.execute()
        except (RedisError, OSError) as error:
            raise StateUnavailableError(
                f"Redis does not answer: {str(error).rstrip('.')}.", suggestion="Ask again."
            ) from error
        record, accounts, attempts = (
            {name.decode(): value.decode(errors="replace") for name, value in fields.items()} for fields in hashes
        )
        if not record:
            raise RunNotFoundError.of(run_id)
        ahead = [member.decode().removeprefix("p") for member in waiters if member.startswith(b"p")]
        limits = parse_amounts(record["limits"])
        if not attempts and "finished_ms" in record:
            return list(audit_tree(run_id, limits, accounts))
        return list(audit_accounts(run_id, limits, accounts, attempts, ahead))


def audit_accounts(
    run_id: str,
    limits: Mapping[str, int],
    accounts: Mapping[str, str],
    attempts: Mapping[str, str],
    ahead: list[str],
) -> Iterator[Difference]:
    """Compare accounts with what claims say was used, what they hold, and what is reserved ahead of a lease.

    Args:
        limits: Of the run, by meter.
        accounts: The run's accounts hash.
        attempts: Its attempts hash.
        ahead: Paths whose estimate is reserved and which nobody has leased yet.
    """
    rows = {(row.account, row.meter): row for row in read_accounts(accounts)}
    derived: dict[str, _Sums] = {part: {} for part in ("reserved", "spent", "unknown", "overrun")}
    totals = _by_meter(accounts, "forked")
    for meter, used in totals.items():
        _add(derived["spent"], "root", meter, min(used, limits.get(meter, used)))

    def add(part: str, path: str, meter: str, amount: int) -> None:
        paid_by = next((account for account in _accounts_of(attempts, path) if (account, meter) in rows), "")
        _add(derived[part], paid_by, meter, amount)

    for claim in _claims(attempts):
        path, over = claim["path"], parse_amounts(claim.get("overrun", ""))
        for meter, amount in parse_amounts(claim.get("used", "")).items():
            totals[meter] = totals.get(meter, 0) + amount
            add("spent", path, meter, amount - over.get(meter, 0))
        held = claim["reserved"] if claim["phase"] == "held" else ""
        for part, text in (
            ("overrun", claim.get("overrun", "")),
            ("unknown", claim.get("unknown", "")),
            ("reserved", held),
        ):
            for meter, amount in parse_amounts(text).items():
                add(part, path, meter, amount)
    for path in ahead:
        for meter, amount in parse_amounts(attempts[f"{path}|terms"].split(";")[3]).items():
            add("reserved", path, meter, amount)
    yield from _differences(run_id, limits, rows, derived)
    yield from _wrong_totals(run_id, _by_meter(accounts, "total"), totals)


def audit_tree(run_id: str, limits: Mapping[str, int], accounts: Mapping[str, str]) -> Iterator[Difference]:
    """Compare accounts with each other and with the run's totals: of a run that ended so long ago that its attempts are gone."""
    rows = {(row.account, row.meter): row for row in read_accounts(accounts)}
    yield from _differences(run_id, limits, rows, {})
    totals, booked = _by_meter(accounts, "total"), _by_meter(accounts, "forked")
    booked = {
        meter: max(0, booked.get(meter, 0) - limit) for meter, limit in limits.items()
    }  # what no account could hold
    for row in rows.values():
        if row.meter in limits:
            booked[row.meter] += row.spent + row.overrun
    yield from _wrong_totals(run_id, {meter: totals.get(meter, 0) for meter in limits}, booked)


def _by_meter(accounts: Mapping[str, str], kind: str) -> dict[str, int]:
    """The fields `<kind>|<meter>`, by meter."""
    found = (name.split("|") for name in accounts if name.startswith(f"{kind}|"))
    return {meter: int(accounts[f"{kind}|{meter}"]) for _, meter in found}


def _wrong_totals(run_id: str, stored: Mapping[str, int], derived: Mapping[str, int]) -> Iterator[Difference]:
    for meter in sorted(stored.keys() | derived.keys()):
        if stored.get(meter, 0) != derived.get(meter, 0):
            yield Difference(run_id, "run", meter, "total", stored.get(meter, 0), derived.get(meter, 0))


def _differences(
    run_id: str, limits: Mapping[str, int], rows: Mapping[tuple[str, str], AccountRow], derived: Mapping[str, _Sums]
) -> Iterator[Difference]:
    children: _Sums = {}
    held: _Sums = {}
    for row in rows.values():
        above = account_above(row.account, row.meter, rows)
        if above is not None:
            _add(children, above.account, row.meter, row.granted)
            _add(held, above.account, row.meter, row.use)
    for (account, meter), row in rows.items():
        figures = {
            "granted": (row.granted, limits[meter] if account == "root" else row.granted),
            "children": (row.children, children.get((account, meter), 0)),
            "held": (row.held, held.get((account, meter), 0)),
            "free": (row.free, max(0, row.free)),
            **{part: (getattr(row, part), sums.get((account, meter), 0)) for part, sums in derived.items()},
        }
        for part, (stored, expected) in figures.items():
            if stored != expected:
                yield Difference(run_id, account, meter, part, stored, expected)


def _claims(attempts: Mapping[str, str]) -> list[dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for name, value in attempts.items():
        if name.startswith("claim|"):
            _, nonce, part = name.split("|", 2)
            found.setdefault(nonce, {})[part] = value
    return [claim for claim in found.values() if "path" in claim]


def _accounts_of(attempts: Mapping[str, str], path: str) -> list[str]:
    """The accounts of a step, innermost first: the words of its chain without what stands behind the ids."""
    chain = attempts[f"{path}|terms"].split(";")[2].split(" ")
    return [word.partition("~")[0].partition("=")[0] for word in chain]


def _add(sums: _Sums, account: str, meter: str, amount: int) -> None:
    sums[account, meter] = sums.get((account, meter), 0) + amount
