"""Any interleaving of the scripts conserves every account and never exceeds the cap; checked after every single script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
import redis

from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.caller import Script, ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import share_evenly
from flujo_client.protocol.replies import Advanced, Blocked, BranchEnd, Claim, Dispatch, Reserved, Split
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Commands, Wire
from tests.lua.runs import accounts_of, check_accounts, commit_claim, create_run

CAPS = {"tokens": 10_007, "searches": 211}
BRANCHES = 8
INNER = 3
STEPS = 10


@dataclass
class Ledger:
    """Reads the accounts of run r1 and judges them."""

    client: redis.Redis
    keyspace: Keyspace
    checks: int = 0
    peak: dict[str, int] = field(default_factory=dict)

    def rows(self) -> list[AccountRow]:
        return accounts_of(self.client, self.keyspace)

    def check(self) -> None:
        """granted = free + reserved + spent + unknown + children, all of them >= 0, and the cap stands."""
        self.checks += 1
        check_accounts(self.rows(), CAPS)
        for meter in CAPS:
            used = sum(row.reserved + row.spent + row.unknown for row in self.rows() if row.meter == meter)
            self.peak[meter] = max(self.peak.get(meter, 0), used)

    def free(self, account: str, meter: str) -> int:
        return next(row.free for row in self.rows() if (row.account, row.meter) == (account, meter))


class CheckingCaller(ScriptCaller):
    """Checks the ledger after every script."""

    def __init__(self, commands: Commands, ledger: Ledger) -> None:
        super().__init__(commands)
        self._ledger = ledger

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        answer = await super().call(script, keys, args)
        if script.name not in ("create_run", "keep_spec"):
            self._ledger.check()
        return answer


@dataclass
class Branch:
    """One branch's life: attempts that succeed, overspend, extend, get lost, are handed over, bill late and twice."""

    scripts: Scripts
    ledger: Ledger
    chain: tuple[str, ...]
    worker: str
    chance: random.Random
    late: list[Claim] = field(default_factory=list)

    async def live(self) -> None:
        path = self.chain[0]
        for number in range(STEPS):
            if number == STEPS // 2 and len(self.chain) == 2 and self.chance.random() < 0.5:
                await self._open_inner(f"{path}.{number}")
            else:
                await self._attempt(f"{path}.{number}")
            if self.late and self.chance.random() < 0.3:
                await self._bill(self.late.pop())
        await _apply(self.scripts, end=BranchEnd(self.chain))
        for claim in self.late:
            await self._bill(claim)
            await self._bill(claim)

    async def _open_inner(self, node: str) -> None:
        def splits() -> list[Split]:  # of what is free now: others may draw on it meanwhile
            free = {meter: self.ledger.free(self.chain[0], meter) for meter in CAPS}
            return [Split(node, self.chain, meter, share_evenly(free[meter], INNER)) for meter in CAPS]

        await _apply(self.scripts, splits=splits)
        for index in range(INNER):
            inner = (f"{node}.{index}", *self.chain)
            await Branch(self.scripts, self.ledger, inner, self.worker, self.chance).live()

    async def _attempt(self, step: str) -> None:
        estimate = f"tokens={self.chance.randrange(1, 400)} searches={self.chance.randrange(0, 9)}"
        lost_spend = self.chance.choice(("charge", "charge", "refund"))
        terms = f"60000;{lost_spend};{' '.join(self.chain)};{estimate};input"
        await _apply(self.scripts, Dispatch(step, 1, "q", "f", "l", terms=terms, task=b"{}"))
        claim = Claim("r1", step, 1, uuid4().hex, self.worker, "q")
        answer = await self.scripts.reserve(claim, POOL)
        while isinstance(answer, Blocked):
            claim = Claim("r1", step, 1, uuid4().hex, self.worker, "q")
            await asyncio.sleep(0)
            if self.ledger.client.hget(self.ledger.keyspace.run("r1").attempts, f"{step}|state") == b"dispatched":
                answer = await self.scripts.reserve(claim, POOL)
            elif self.ledger.client.hget(self.ledger.keyspace.run("r1").attempts, f"{step}|state") == b"closed":
                return
        if not isinstance(answer, Reserved):
            return
        if self.chance.random() < 0.3:
            await self.scripts.extend(claim, POOL, 1, {"tokens": self.chance.randrange(1, 200)})
        fate = self.chance.random()
        if fate < 0.2:
            self.ledger.client.zadd(self.ledger.keyspace.shard("incarnations"), {self.worker: 1})
            await self.scripts.lose(claim, POOL, "died", {})
            await self.scripts.register("incarnations", self.worker, 600_000, 0)
            self.late.append(claim)
        elif fate < 0.3:
            await self.scripts.lose(claim, POOL, "handed_over", {"tokens": self.chance.randrange(0, 500)})
        elif fate < 0.35:
            await self.scripts.lose(claim, POOL, "stranger", {})
        else:
            await self._bill(claim)
            if self.chance.random() < 0.2:
                await self._bill(claim)

    async def _bill(self, claim: Claim) -> None:
        usage = {"tokens": self.chance.randrange(0, 600), "searches": self.chance.randrange(0, 12)}
        await commit_claim(self.scripts, claim, usage)


async def _apply(
    scripts: Scripts,
    *dispatches: Dispatch,
    end: BranchEnd | None = None,
    splits: Callable[[], Sequence[Split]] = tuple,
) -> None:
    """Store a decision, as often as another manager is faster."""
    while True:
        loaded = await scripts.load_run("r1", 1)
        assert loaded is not None
        answer = await scripts.advance(
            loaded,
            uuid4().hex,
            applied=loaded.record["applied"],
            status=None,
            error=b"",
            suspect_ms=2000,
            nodes={},
            splits=tuple(splits()),
            branch_ends=() if end is None else (end,),
            dispatches=dispatches,
        )
        if isinstance(answer, Advanced):
            return


@pytest.mark.parametrize("seed", range(3))
async def test_concurrent_branches_conserve_the_budget(
    each_redis_url: str, plain_redis: redis.Redis, keyspace: Keyspace, seed: int
) -> None:
    ledger = Ledger(plain_redis, keyspace)
    wires = [Wire(each_redis_url) for _ in range(BRANCHES)]
    clients = [Scripts(CheckingCaller(wire, ledger), keyspace) for wire in wires]
    await create_run(clients[0], limits=CAPS)
    await _apply(
        clients[0],
        splits=lambda: [Split("0", ("root",), meter, share_evenly(cap, BRANCHES)) for meter, cap in CAPS.items()],
    )
    branches = []
    for index, scripts in enumerate(clients):
        await scripts.register("incarnations", f"w{index}", 600_000, 0)
        branches.append(Branch(scripts, ledger, (f"0.{index}", "root"), f"w{index}", random.Random(seed * 100 + index)))

    await asyncio.gather(*(branch.live() for branch in branches))

    ledger.check()
    assert ledger.checks > 600
    assert ledger.peak["tokens"] > CAPS["tokens"] * 0.9  # the budget was really fought over
    for wire in wires:
        await wire.close()
