"""Named accounts under random operations by two clients at once: they hold what runs drew on them, and no limit breaks."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from flujo_client.account_audit import AccountAuditor
from flujo_client.account_book import AccountBook
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import RedisClient, connect
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits, parse_amounts
from flujo_client.protocol.replies import Advanced, Claim, Reserved
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.conftest import ON_REAL_SERVERS
from tests.lua.runs import a_dispatch, advance_run, commit_claim, create_run, load_run

pytestmark = ON_REAL_SERVERS

STEPS, OPERATIONS = 12, 200
RUNS = ("one", "two", "alpha", "beta")
SECOND = timedelta(seconds=1)
ACCOUNTS = (
    Account(name="day", limits=UsageLimits(total_tokens_limit=300, meters={"requests": 40}), window="day"),
    Account(name="ever", limits=UsageLimits(total_tokens_limit=400), when_exhausted="wait"),
    Account(name="pace", limits=UsageLimits(total_tokens_limit=90), window=SECOND, when_exhausted="wait"),
    Account(name="narrow", slots=3, when_exhausted="wait"),
)


class Crowd:
    """A client that does at random whatever may be done, twice now and then. What attempts use is within their estimates."""

    def __init__(self, scripts: Scripts, auditor: AccountAuditor, seed: int) -> None:
        self.scripts = scripts
        self.auditor = auditor
        self.chance = random.Random(seed)
        self.terms: dict[tuple[str, str], tuple[str, str]] = {}
        self.attempts: dict[tuple[str, str], int] = {}
        self.held: list[Claim] = []
        self.lost: list[Claim] = []
        self.done: dict[str, int] = {}

    async def start(self) -> None:
        for account in ACCOUNTS:
            await AccountBook(self.scripts).define(account)
        for shard in range(self.scripts.keyspace.shards):
            await self.scripts.register(
                "incarnations", "w1", -1, shard
            )  # dead, and not buried: its leases may be given up
        names = [account.name for account in ACCOUNTS]
        for run_id in RUNS:
            await create_run(self.scripts, run_id)
            for path in map(str, range(STEPS)):
                named = " ".join(self.chance.sample(names, self.chance.randint(1, len(names))))
                self.terms[run_id, path] = self.chance.choice(("tokens=5", "tokens=20", "", "tokens=35")), named
            await self.dispatch(run_id, *((str(path), 1) for path in range(STEPS)))

    async def dispatch(self, run_id: str, *attempts: tuple[str, int]) -> None:
        rows = []
        for path, attempt in attempts:
            estimate, named = self.terms[run_id, path]
            rows.append(a_dispatch(path, attempt, estimate, accounts=named))
        if isinstance(await advance_run(self.scripts, await load_run(self.scripts, run_id), *rows), Advanced):
            self.attempts |= {(run_id, path): attempt for path, attempt in attempts}

    async def act(self) -> None:
        acts = [
            *[self.reserve] * 5,
            *[self.settle] * 2,
            self.lose,
            self.extend,
            self.call,
            self.call,
            self.late,
            self.cancel,
        ]
        act = self.chance.choice(acts)
        self.done[act.__name__] = self.done.get(act.__name__, 0) + 1
        await act()
        await self.check()

    async def check(self) -> None:
        assert await self.auditor.audit() == []
        for account in ACCOUNTS:
            for meter, row in (await AccountBook(self.scripts).status(account.name)).meters.items():
                assert min(row.reserved, row.spent, row.unknown) >= 0, (account.name, meter, row)
                assert row.reserved + row.spent + row.unknown <= row.limit, (account.name, meter, row)

    async def reserve(self) -> None:
        run_id, path = self.chance.choice(list(self.attempts))
        claim = Claim(run_id, path, self.attempts[run_id, path], uuid4().hex, "w1", "q")
        answers = [await self.scripts.reserve(claim, POOL) for _ in range(self.chance.randint(1, 2))]
        if isinstance(answers[-1], Reserved):
            self.held.append(claim)

    def pick(self, claims: list[Claim]) -> Claim | None:
        return claims.pop(self.chance.randrange(len(claims))) if claims else None

    def usage(self, claim: Claim) -> dict[str, int]:
        most = parse_amounts(self.terms[claim.run_id, claim.path][0]).get("tokens", 0)
        return {"tokens": self.chance.randint(0, most)} if self.chance.random() < 0.7 else {}

    async def settle(self) -> None:
        if claim := self.pick(self.held):
            usage = self.usage(claim)
            for _ in range(self.chance.randint(1, 2)):
                await commit_claim(self.scripts, claim, usage)

    async def lose(self) -> None:
        if claim := self.pick(self.held):
            reason = self.chance.choice(("died", "died", "stranger", "handed_over"))
            usage = self.usage(claim) if reason == "handed_over" else {}
            for _ in range(self.chance.randint(1, 2)):
                await self.scripts.lose(claim, POOL, reason, usage)
            self.lost.append(claim)
            await self.dispatch(claim.run_id, (claim.path, claim.attempt + 1))

    async def late(self) -> None:
        if claim := self.pick(self.lost):
            usage = self.usage(claim)
            for _ in range(2):
                await commit_claim(self.scripts, claim, usage)

    async def extend(self) -> None:
        if self.held:
            claim, counter = self.chance.choice(self.held), self.chance.randint(1, 3)
            for _ in range(2):
                await self.scripts.extend(claim, POOL, counter, {"tokens": 3, "requests": 1})

    async def call(self) -> None:
        name, shard = self.chance.choice(ACCOUNTS).name, self.chance.randrange(self.scripts.keyspace.shards)
        called = await self.scripts.call_waiters(name, self.chance.randint(1, 5), shard)
        for member in called:
            await self.scripts.redispatch(member, 0, 2_000)

    async def cancel(self) -> None:
        if self.chance.random() < 0.05:
            await self.scripts.cancel(self.chance.choice(RUNS), POOL, "why")


@pytest.fixture
async def client(each_redis_url: str) -> AsyncIterator[RedisClient]:
    connected = connect(each_redis_url)
    yield connected
    await connected.aclose()


@pytest.mark.parametrize("seed", range(4))
async def test_named_accounts_hold_what_runs_drew_on_them_after_every_script(
    scripts: Scripts, client: RedisClient, keyspace: Keyspace, seed: int
) -> None:
    crowd = Crowd(scripts, AccountAuditor(client, keyspace, 10**9), seed)
    await crowd.start()
    for _ in range(OPERATIONS):
        await crowd.act()

    await end_all(crowd)

    assert min(crowd.done.values()) > 0
    await nothing_is_held(crowd)


@pytest.mark.parametrize("seed", range(2))
async def test_two_clients_at_once_leave_named_accounts_as_one_does(
    each_redis_url: str, scripts: Scripts, client: RedisClient, keyspace: Keyspace, seed: int
) -> None:
    crowd = Crowd(scripts, AccountAuditor(client, keyspace, 10**9), seed)
    await crowd.start()
    wire = Wire(each_redis_url)
    other = Crowd(Scripts(ScriptCaller(wire), keyspace), crowd.auditor, seed + 100)
    other.terms, other.attempts, other.held, other.lost = crowd.terms, crowd.attempts, crowd.held, crowd.lost

    async def many(one: Crowd) -> None:
        for _ in range(OPERATIONS // 2):
            await one.act()

    await asyncio.gather(many(crowd), many(other))
    await wire.close()

    await end_all(crowd)
    await nothing_is_held(crowd)


async def end_all(crowd: Crowd) -> None:
    """Every run is cancelled, what is leased ends, and the sweep looks at every dispatch."""
    for run_id in RUNS:
        await crowd.scripts.cancel(run_id, POOL, "over")
    for claim in [*crowd.held, *crowd.lost]:
        await commit_claim(crowd.scripts, claim, {})
    keyspace = crowd.scripts.keyspace
    for key in (keyspace.shard("dispatches", shard) for shard in range(keyspace.shards)):
        for member in await crowd.scripts.commands.execute("ZRANGE", key, 0, -1):
            await crowd.scripts.redispatch(member.decode(), 0, 2_000)


async def nothing_is_held(crowd: Crowd) -> None:
    await crowd.check()
    for account in ACCOUNTS:
        status = await AccountBook(crowd.scripts).status(account.name)
        assert status.waiting == 0
        assert all(row.reserved == 0 for row in status.meters.values()), status
    keyspace = crowd.scripts.keyspace
    for key in (keyspace.shard("named", shard) for shard in range(keyspace.shards)):
        fields = await crowd.scripts.commands.execute("HGETALL", key)
        assert [field for field in fields[::2] if field.startswith(b"place|")] == []
