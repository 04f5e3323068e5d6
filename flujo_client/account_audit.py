"""Audits named accounts: derives what each holds from the runs that drew on it, and names what differs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from flujo_client.audit import Auditor, Difference
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.named import SLOTS
from flujo_client.protocol.quota import parse_amounts

__all__ = ["NAMED", "AccountAuditor"]

#: Stands in the place of the run where an account belongs to none.
NAMED = "named"

#: How often accounts are read again that moved while their runs were read.
_TRIES = 10

_BOOKING = re.compile(r"(\S+) (\S+) (\d+) (\d+)")

#: Amounts by account, meter, window and part.
_Sums = dict[tuple[str, str, int, str], int]


class AccountAuditor:
    """Audits the named accounts of an installation. Writes nothing.

    Args:
        client: Redis with replies as bytes; owned by the caller.
        keyspace: Makes the keys.
        retention_ms: How long finished runs stay: what a window took before that cannot be derived any more.
    """

    def __init__(self, client: RedisClient, keyspace: Keyspace, retention_ms: int) -> None:
        self._client = client
        self._keyspace = keyspace
        self._retention_ms = retention_ms

    async def audit(self) -> list[Difference]:
        """What is wrong with named accounts; of those that never rest while their runs are read, nothing."""
        found: list[Difference] = []
        for _ in range(_TRIES):
            before = await self._named()
            seconds, _ = await self._client.time()
            sums = [_ahead(named) for named in before]
            for run_id in await Auditor(self._client, self._keyspace).run_ids():
                await self._add_run(run_id, sums[self._keyspace.shard_of(run_id)])
            after = await self._named()
            forgotten_ms = seconds * 1000 - self._retention_ms
            found = [
                each
                for named, derived in zip(after, sums, strict=True)
                for each in _differences(named, derived, forgotten_ms)
            ]
            found += _loans(self._keyspace, after)
            if before == after:
                return found
        return [each for each in found if _of_account(before, each.account) == _of_account(after, each.account)]

    async def _named(self) -> list[dict[str, str]]:
        """What each shard knows of named accounts."""
        keys = [self._keyspace.shard("named", shard) for shard in range(self._keyspace.shards)]
        return [_decoded(await self._client.hgetall(key)) for key in keys]

    async def _add_run(self, run_id: str, sums: _Sums) -> None:
        keys = self._keyspace.run(run_id)
        pipeline = self._client.pipeline(transaction=True)
        pipeline.hgetall(keys.accounts)
        pipeline.hgetall(keys.attempts)
        accounts, attempts = map(_decoded, await pipeline.execute())
        for name, value in accounts.items():
            if name.startswith("named|"):
                _, account, meter, tag, part = name.split("|")
                _add(sums, (account, meter, int(tag), part), int(value))
        for name, value in attempts.items():
            claim, _, part = name.rpartition("|")
            if claim.startswith("claim|") and part == "named" and attempts[f"{claim}|phase"] == "held":
                _add_bookings(sums, value)


def _ahead(named: Mapping[str, str]) -> _Sums:
    """What is booked for those who were called and are not leased yet."""
    sums: _Sums = {}
    for name, value in named.items():
        if name.startswith("place|") and value.startswith("p;"):
            _add_bookings(sums, value.split(";")[3])
    return sums


def _differences(named: Mapping[str, str], sums: _Sums, forgotten_ms: int) -> Iterator[Difference]:
    for account in named.get("names", "").split():
        kind = named[f"def|{account}"].split()[1]
        start, _, *parts = named.get(f"row|{account}", "0 0").split()
        taken = _in_buckets(named, account, int(start)) if kind == "sliding" else {}
        for meter, *texts in zip(*(iter(parts),) * 4, strict=True):
            reserved, spent, unknown = map(int, texts)
            tag = 0 if meter == SLOTS else int(start)
            if kind == "sliding" and meter != SLOTS:
                if spent != taken.get(meter, 0):
                    yield Difference(NAMED, account, meter, "spent", spent, taken.get(meter, 0))
                continue
            complete = int(start) > forgotten_ms
            for part, stored in (("reserved", reserved), ("spent", spent), ("unknown", unknown)):
                derived = sums.get((account, meter, tag, part), 0)
                if stored != derived and (complete or part == "reserved" or stored < derived):
                    yield Difference(NAMED, account, meter, part, stored, derived)


def _in_buckets(named: Mapping[str, str], account: str, start: int) -> dict[str, int]:
    taken: dict[str, int] = {}
    for name, value in named.items():
        if name.startswith(f"bucket|{account} ") and int(name.rpartition(" ")[2]) >= start:
            for meter, amount in parse_amounts(value).items():
                taken[meter] = taken.get(meter, 0) + amount
    return taken


def _add_bookings(sums: _Sums, text: str) -> None:
    for account, meter, amount, tag in _BOOKING.findall(text):
        _add(sums, (account, meter, int(tag), "reserved"), int(amount))


def _add(sums: _Sums, key: tuple[str, str, int, str], amount: int) -> None:
    sums[key] = sums.get(key, 0) + amount


def _loans(keyspace: Keyspace, shards: Sequence[Mapping[str, str]]) -> Iterator[Difference]:
    """Compare what each shard holds of an account with what its home lent: no more, and as much where nothing is on its way."""
    for account in shards[0].get("names", "").split():
        lent_by = shards[keyspace.home_of(account)]
        for shard, named in enumerate(shards):
            words = named.get(f"slab|{account}", "").split()
            head, held = words[:4], parse_amounts(" ".join(words[4:]))
            row, lent_text, *_ = f"{lent_by.get(f'lent|{account} {shard}', '')};;".split(";")
            lent, said = parse_amounts(lent_text), row.split()[:2]
            settled = said == [head[0], head[3]] and head[1] == "open" if head else True
            for meter, amount in held.items():
                counts = meter == SLOTS or said[1:] == head[3:]
                if counts and (amount > lent.get(meter, 0) or (settled and amount != lent.get(meter, 0))):
                    yield Difference(NAMED, account, meter, f"lent to shard {shard}", lent.get(meter, 0), amount)


def _of_account(shards: Sequence[Mapping[str, str]], account: str) -> list[tuple[str, str]]:
    """What shards know of an account beside who waits for it."""
    names = (f"row|{account}", f"slab|{account}")
    return [
        (name, value)
        for named in shards
        for name, value in named.items()
        if name in names or name.startswith(f"lent|{account} ")
    ]


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
