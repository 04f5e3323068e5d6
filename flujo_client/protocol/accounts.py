"""A run's accounts as its scripts keep them, read from their hash; see lua/_accounts.lua for the fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import count, takewhile

__all__ = ["AccountRow", "account_above", "read_accounts"]

_ROW = re.compile(r"(root|\d[\d.]*)\|(\w+)")


@dataclass(frozen=True, slots=True)
class AccountRow:
    """One meter of one account; `granted` of a branch that was never touched is its share.

    Attributes:
        children: What is granted to child accounts.
        overrun: What was used beyond what the account could get; outside the equation
            granted = free + reserved + spent + unknown + children.
        held: What the child accounts reserved, spent or hold as unknown.
    """

    account: str
    meter: str
    granted: int
    reserved: int = 0
    spent: int = 0
    unknown: int = 0
    children: int = 0
    overrun: int = 0
    held: int = 0
    pool: int = 0
    seen: int = 0
    closed: int = 0

    @property
    def stored(self) -> str:
        """The row as its field keeps it."""
        return " ".join(str(number) for number in astuple(self)[2:])

    @property
    def free(self) -> int:
        """What may still be reserved."""
        return self.granted - self.reserved - self.spent - self.unknown - self.children

    @property
    def use(self) -> int:
        """What it, and what is below it, reserved, spent or holds as unknown."""
        return self.reserved + self.spent + self.unknown + self.held


def read_accounts(fields: Mapping[str, str]) -> list[AccountRow]:
    """Every account and meter, the run's own first, then in declared order; branches that were never touched as well."""
    found: dict[tuple[str, str], AccountRow] = {}
    for name, value in fields.items():
        match = _ROW.fullmatch(name)
        if match:
            found[match[1], match[2]] = AccountRow(match[1], match[2], *map(int, value.split()))
        elif name.startswith("split|") and name.count("|") == 2:
            for row in _shares(name, value, fields):
                found.setdefault((row.account, row.meter), row)
    rows: dict[tuple[str, str], AccountRow] = {}
    for account, meter in sorted(found, key=lambda key: (key[1], _order(key[0]))):
        row = found[account, meter]
        above = account_above(account, meter, rows)
        rows[account, meter] = row if above is None else _synced(row, above)
    return list(rows.values())


def account_above(account: str, meter: str, rows: Mapping[tuple[str, str], AccountRow]) -> AccountRow | None:
    """The nearest account above one, among those that limit the meter."""
    while account != "root":
        account = account.rpartition(".")[0] or "root"
        if (account, meter) in rows:
            return rows[account, meter]
    return None


def _order(account: str) -> list[int]:
    return [] if account == "root" else [int(index) for index in account.split(".")]


def _shares(name: str, value: str, fields: Mapping[str, str]) -> Iterator[AccountRow]:
    _, path, meter = name.split("|")
    pool, form, *rest = value.split()
    if form == "w":
        pages = (fields.get(f"{name}|{page}", "") for page in count())
        amounts = [int(share) for page in takewhile(bool, pages) for share in page.split()] or list(map(int, rest))
    else:
        base, remainder = map(int, rest)
        amounts = [base + (index < remainder) for index in range(int(form))]
    for index, amount in enumerate(amounts):
        yield AccountRow(f"{path}.{index}", meter, amount, seen=int(pool))


def _synced(row: AccountRow, above: AccountRow) -> AccountRow:
    """A row whose free money was pooled above it, which the scripts note when they next touch it."""
    if row.seen >= above.pool:
        return row
    pooled = row.children > row.held
    return replace(
        row, granted=row.use, children=row.held if pooled else row.children, pool=row.pool + pooled, seen=above.pool
    )
