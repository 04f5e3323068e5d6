"""What a budget costs: reserve and settle together, by the number of open sibling accounts. Prints one JSON line per row.

python benchmarks/budgets.py [PAIRS]
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

from flujo_client.account_book import AccountBook
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits, share_evenly
from flujo_client.protocol.replies import Advanced, Claim, Dispatch, Reserved, Split
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire

SIBLINGS = (10, 100, 1_000, 10_000)
SLICE = 500

#: What is published for Cycles, a budget service, for the same pair: printed beside, for comparison.
PUBLISHED = {"published": "Cycles", "p50_ms": 14.9, "p99_ms": 18.4}

#: A team's day, and a provider's minute with slots.
NAMED = (
    Account(name="day", limits=UsageLimits(total_cost_usd_limit=1_000), window="day"),
    Account(
        name="minute",
        limits=UsageLimits(total_tokens_limit=10**9, meters={"requests": 10**9}),
        slots=10**6,
        window=timedelta(minutes=1),
        when_exhausted="wait",
    ),
)


class Bench:
    """One run whose node 1 has many branches.

    Args:
        scripts: On the server that is measured.
        siblings: Branches, each with an account of its own.
        named: Accounts above the run that every step draws on.
    """

    def __init__(self, scripts: Scripts, siblings: int, named: tuple[str, ...] = ()) -> None:
        self._scripts = scripts
        self._siblings = siblings
        self._number = 0
        self._named = f";{' '.join(named)}" if named else ""
        self.run_id = f"r{siblings}-{len(named)}"

    async def prepare(self) -> None:
        """Create the run and touch every account."""
        cap = 1_000_000 * self._siblings
        await self._scripts.keep_spec(self.run_id, "h", b"{}")
        await self._scripts.create_run(
            self.run_id,
            fingerprint="f",
            owner=POOL,
            spec_hash="h",
            pipeline="p",
            input_payload=b"j1",
            context_payload=b"",
            limits={"tokens": cap, "cost_nanousd": cap},
            traceparent="",
            metadata=b"",
        )
        splits = tuple(
            Split("1", ("root",), meter, share_evenly(cap, self._siblings)) for meter in ("tokens", "cost_nanousd")
        )
        await self._advance((), splits)
        for begin in range(0, self._siblings, SLICE):
            branches = range(begin, min(begin + SLICE, self._siblings))
            for claim in await self._dispatch(branches):
                await self._pair(claim)

    async def measure(self, pairs: int) -> list[float]:
        """Seconds of each pair, spread over the accounts."""
        seconds: list[float] = []
        while len(seconds) < pairs:
            branches = [(index * 7919) % self._siblings for index in range(len(seconds), len(seconds) + SLICE)]
            for claim in await self._dispatch(list(dict.fromkeys(branches))):
                began = time.perf_counter()
                await self._pair(claim)
                seconds.append(time.perf_counter() - began)
        return seconds[:pairs]

    async def _pair(self, claim: Claim) -> None:
        if not isinstance(await self._scripts.reserve(claim, POOL), Reserved):
            raise TypeError(claim.path)
        await self._scripts.commit(
            claim,
            POOL,
            kind="succeeded",
            usage={"tokens": 3, "cost_nanousd": 30},
            output=b"j1",
            result=b"j{}",
            context=b"",
            context_form="",
            data=b"{}",
        )

    async def _dispatch(self, branches: list[int] | range) -> list[Claim]:
        self._number += 1
        paths = [f"1.{branch}.{self._number}" for branch in branches]
        terms = "60000;charge;1.{} root;tokens=10 cost_nanousd=100;input" + self._named
        steps = [
            Dispatch(path, 1, "q", "m:f", "l", terms=terms.format(branch), task=b"{}")
            for path, branch in zip(paths, branches, strict=True)
        ]
        await self._advance(tuple(steps), ())
        return [Claim(self.run_id, path, 1, uuid4().hex, "w1", "q") for path in paths]

    async def _advance(self, dispatches: tuple[Dispatch, ...], splits: tuple[Split, ...]) -> None:
        loaded = await self._scripts.load_run(self.run_id, 1)
        if loaded is None:
            raise RuntimeError(self.run_id)
        answer = await self._scripts.advance(
            loaded,
            uuid4().hex,
            applied=loaded.record["last_event"],
            status=None,
            error=b"",
            suspect_ms=2_000,
            nodes={},
            splits=splits,
            branch_ends=(),
            dispatches=dispatches,
        )
        if not isinstance(answer, Advanced):
            raise TypeError(str(answer))


async def main(pairs: int) -> None:
    """Measure on a server of its own."""
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        wire = Wire(server.url)
        scripts = Scripts(ScriptCaller(wire), Keyspace("bench"))
        await scripts.register("incarnations", "w1", 3_600_000, 0)
        for account in NAMED:
            await AccountBook(scripts).define(account)
        names = tuple(account.name for account in NAMED)
        for siblings, named in [*((siblings, ()) for siblings in SIBLINGS), (1_000, names[:1]), (1_000, names)]:
            bench = Bench(scripts, siblings, named)
            await bench.prepare()
            cuts = quantiles(await bench.measure(pairs), n=100)
            row = {"siblings": siblings, "named": len(named), "pairs": pairs}
            row |= {"p50_ms": cuts[49] * 1000, "p99_ms": cuts[98] * 1000}
            sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.write(json.dumps(PUBLISHED) + "\n")
        await wire.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000))
