"""Named accounts on several shards: all of them together keep the limits, whatever becomes of transfers, and nobody is refused in vain."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest
import redis

from flujo_client.account_audit import NAMED, AccountAuditor
from flujo_client.account_book import AccountBook
from flujo_client.audit import Difference
from flujo_client.execution.slabs import SlabMover
from flujo_client.protocol.caller import Script, ScriptCaller
from flujo_client.protocol.connection import RedisClient, connect
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import Amounts, UsageLimits, parse_amounts
from flujo_client.protocol.replies import Claim, Delayed, Refusal, Reserved, SlabLoan, SlabOffer
from flujo_client.protocol.scripts import Scripts
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore
from tests.lua.runs import a_dispatch, advance_run, commit_claim, create_run, load_run
from tests.lua.test_named_invariants import ACCOUNTS, RUNS, Crowd, end_all, nothing_is_held

TOKENS_100 = UsageLimits(total_tokens_limit=100)
REFUSING = Account(name="a", limits=TOKENS_100)
PATIENT = Account(name="a", limits=TOKENS_100, when_exhausted="wait")
MOVING = ("offer_slab", "lend_slab", "take_slab")


@pytest.fixture
def each_redis_url(redis_url: str) -> str:
    """One server: the in-process mode has one shard, and what differs between servers the other tests of scripts show."""
    return redis_url


@pytest.fixture
def keyspace() -> Keyspace:
    """Two shards; the account `a` is at home on the second."""
    made = Keyspace(f"t{uuid4().hex[:10]}", shards=2)
    assert made.home_of("a") == 1
    return made


@pytest.fixture
async def client(each_redis_url: str) -> AsyncIterator[RedisClient]:
    connected = connect(each_redis_url)
    yield connected
    await connected.aclose()


class Killed(Exception):
    """Whoever made the call is dead."""


class Mortal(ScriptCaller):
    """Calls scripts as a process does that may die before a script, or after it, before it reads the answer.

    Attributes:
        dies: "before" or "after", and which of its calls of the scripts that move slabs.
    """

    def __init__(self, caller: ScriptCaller) -> None:
        super().__init__(caller.commands)
        self.dies: tuple[str, int] | None = None
        self.moves: list[tuple[Script, Sequence[str], Sequence[Any]]] = []

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if script.name in MOVING:
            self.moves.append((script, keys, args))
        if self.dies == ("before", len(self.moves)):
            raise Killed
        reply = await super().call(script, keys, args)
        if self.dies == ("after", len(self.moves)):
            raise Killed
        return reply

    def revive(self) -> None:
        self.dies, self.moves = None, []


@pytest.fixture
def mortal(scripts: Scripts) -> Mortal:
    return Mortal(ScriptCaller(scripts.commands))


@pytest.fixture
def mover(mortal: Mortal, keyspace: Keyspace) -> SlabMover:
    return SlabMover(Scripts(mortal, keyspace))


async def start(scripts: Scripts, shard: int, *estimates: str, account: str = "a") -> list[Claim]:
    """A run on a shard, with an attempt dispatched for each estimate."""
    run_id = next(run_id for n in range(100) if scripts.keyspace.shard_of(run_id := f"r{n}") == shard)
    await create_run(scripts, run_id)
    await scripts.register("incarnations", "w1", 10**9, shard)
    rows = [a_dispatch(str(path), estimate=estimate, accounts=account) for path, estimate in enumerate(estimates)]
    await advance_run(scripts, await load_run(scripts, run_id), *rows)
    return [Claim(run_id, str(path), 1, uuid4().hex, "w1", "q") for path in range(len(estimates))]


async def go_on(scripts: Scripts, mover: SlabMover, shard: int) -> list[str]:
    """What a manager does that hears of the account on a shard: the paths that it calls."""
    await mover.serve("a", shard)
    return [member.split(" ")[1] for member in await scripts.call_waiters("a", 10, shard)]


async def held(scripts: Scripts, shard: int, meter: str = "tokens") -> int:
    """What a shard holds of the account."""
    text = await scripts.commands.execute("HGET", scripts.keyspace.shard("named", shard), "slab|a")
    return parse_amounts(" ".join(text.decode().split()[4:])).get(meter, 0)


async def all_held(scripts: Scripts) -> list[int]:
    return [await held(scripts, shard) for shard in range(2)]


async def test_each_shard_draws_on_what_the_home_lends_and_the_last_is_refused(
    scripts: Scripts, mover: SlabMover
) -> None:
    await AccountBook(scripts).define(REFUSING)
    near, late = await start(scripts, 0, "tokens=60", "tokens=20")
    far, too_much = await start(scripts, 1, "tokens=30", "tokens=30")
    assert isinstance(await scripts.reserve(near, POOL), Delayed)

    assert await go_on(scripts, mover, 0) == ["0"]
    assert await all_held(scripts) == [72, 0]  # with a quarter of an even share for who comes next
    assert isinstance(await scripts.reserve(near, POOL), Reserved)
    assert isinstance(await scripts.reserve(far, POOL), Delayed)
    assert isinstance(await scripts.reserve(too_much, POOL), Delayed)
    assert await go_on(scripts, mover, 1) == ["0"]  # 12 of the first shard came back
    assert await go_on(scripts, mover, 1) == ["1"]  # to be refused: nobody has as much

    assert await all_held(scripts) == [60, 30]
    assert isinstance(await scripts.reserve(far, POOL), Reserved)
    assert await scripts.reserve(too_much, POOL) == Refusal("a", "tokens", 30, 0)
    assert isinstance(await scripts.reserve(late, POOL), Delayed)
    assert await go_on(scripts, mover, 0) == ["1"]
    assert isinstance(await scripts.reserve(late, POOL), Refusal)
    await commit_claim(scripts, near, {"tokens": 60})
    await commit_claim(scripts, far, {"tokens": 5})
    status = await AccountBook(scripts).status("a")
    assert (status.meters["tokens"].spent, status.meters["tokens"].free, status.waiting) == (65, 35, 0)


async def test_what_is_idle_on_one_shard_pays_on_another(scripts: Scripts, mover: SlabMover) -> None:
    await AccountBook(scripts).define(PATIENT)
    (near,) = await start(scripts, 0, "tokens=90")
    (far,) = await start(scripts, 1, "tokens=80")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(near, POOL)
    assert isinstance(await scripts.reserve(far, POOL), Delayed)
    assert await go_on(scripts, mover, 1) == []

    await commit_claim(scripts, near, {"tokens": 10})

    assert await go_on(scripts, mover, 1) == ["0"]
    assert isinstance(await scripts.reserve(far, POOL), Reserved)
    assert await all_held(scripts) == [10, 90]


async def test_what_nobody_uses_goes_home_when_it_was_looked_at(scripts: Scripts, mover: SlabMover) -> None:
    await AccountBook(scripts).define(PATIENT)
    (near,) = await start(scripts, 0, "tokens=40")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(near, POOL)
    due = await scripts.commands.execute("ZSCORE", scripts.keyspace.shard("named_due", 0), "a")
    assert due is not None  # its lease: somebody looks again
    await mover.serve("a", 0)
    assert await held(scripts, 0) == 52  # something runs there: a part stays free for who comes next

    await commit_claim(scripts, near, {"tokens": 7})
    await mover.serve("a", 0)

    assert await all_held(scripts) == [7, 0]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 13))
async def test_a_mover_that_dies_at_any_place_loses_nothing_and_lends_nothing_twice(
    scripts: Scripts, client: RedisClient, keyspace: Keyspace, mortal: Mortal, mover: SlabMover, moment: str, nth: int
) -> None:
    await AccountBook(scripts).define(PATIENT)
    (near,) = await start(scripts, 0, "tokens=80")
    (far,) = await start(scripts, 1, "tokens=70")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(near, POOL)
    await commit_claim(scripts, near, {"tokens": 20})
    await scripts.reserve(far, POOL)  # 70 of what the other shard has free
    mortal.revive()
    mortal.dies = moment, nth

    try:
        await mover.serve("a", 1)
    except Killed:
        assert nth <= 9, "a fetch from another shard is three transfers of three scripts"
    assert sum(await all_held(scripts)) <= 100
    assert await AccountAuditor(client, keyspace, 10**9).audit() == []

    mortal.revive()
    assert await go_on(scripts, mover, 1) == ["0"]
    assert isinstance(await scripts.reserve(far, POOL), Reserved)
    assert await AccountAuditor(client, keyspace, 10**9).audit() == []


async def test_a_shard_with_work_of_its_own_gives_what_is_above_an_even_share_to_who_asks_in_vain(
    scripts: Scripts, mover: SlabMover
) -> None:
    await AccountBook(scripts).define(Account(name="a", slots=4, when_exhausted="wait"))
    near = await start(scripts, 0, *[""] * 8)
    for claim in near:
        await scripts.reserve(claim, POOL)
    await go_on(scripts, mover, 0)
    running = [claim for claim in near if isinstance(await scripts.reserve(claim, POOL), Reserved)]
    far = await start(scripts, 1, "", "")
    for claim in far:
        await scripts.reserve(claim, POOL)
    assert await go_on(scripts, mover, 1) == []
    assert len(running) == 4

    served = []
    for claim in running:  # each that ends makes room on the first shard, where others wait
        await commit_claim(scripts, claim, {})
        served.append((await go_on(scripts, mover, 1), await go_on(scripts, mover, 0)))

    assert [len(here) for here, _ in served] == [1, 1, 0, 0]
    assert [len(there) for _, there in served] == [0, 0, 1, 1]
    assert [await held(scripts, shard, "slots") for shard in range(2)] == [2, 2]


async def test_who_asks_on_another_shard_goes_on_however_much_work_waits_on_the_first(
    scripts: Scripts, mover: SlabMover
) -> None:
    """Nobody starves across shards: whoever ends on the busy one has another in its place, until the even share of the other."""
    await AccountBook(scripts).define(Account(name="a", slots=2, when_exhausted="wait"))
    busy, (alone,) = await start(scripts, 0, *[""] * 20), await start(scripts, 1, "")
    waiting = {claim.path: claim for claim in busy}
    running: list[Claim] = []

    async def let_in() -> None:
        for path in await go_on(scripts, mover, 0):
            running.append(waiting.pop(path))
            assert isinstance(await scripts.reserve(running[-1], POOL), Reserved)

    for claim in busy:
        await scripts.reserve(claim, POOL)
    while len(running) < 2:
        await let_in()
    assert isinstance(await scripts.reserve(alone, POOL), Delayed)
    ends = 0
    while not await go_on(scripts, mover, 1):
        await commit_claim(scripts, running.pop(0), {})
        ends += 1
        await let_in()

    assert ends <= 2
    assert len(waiting) >= 16
    assert isinstance(await scripts.reserve(alone, POOL), Reserved)


async def test_a_running_step_waits_in_place_for_what_another_shard_has_and_is_refused_when_none_has(
    scripts: Scripts, mover: SlabMover
) -> None:
    await AccountBook(scripts).define(REFUSING)
    (claim,) = await start(scripts, 0, "tokens=10")
    await scripts.reserve(claim, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(claim, POOL)

    asked = await scripts.extend(claim, POOL, 1, {"tokens": 50})
    await go_on(scripts, mover, 0)
    granted = await scripts.extend(claim, POOL, 1, {"tokens": 50})
    more = await scripts.extend(claim, POOL, 2, {"tokens": 60})
    await go_on(scripts, mover, 0)
    refused = await scripts.extend(claim, POOL, 2, {"tokens": 60})

    assert (asked, granted) == (Delayed("a", "tokens", 50), None)
    assert isinstance(more, Delayed)
    assert isinstance(refused, Refusal)


async def test_a_running_step_gets_tokens_while_a_step_on_another_shard_waits_for_its_slot(
    scripts: Scripts, mover: SlabMover
) -> None:
    """Only what is asked for in vain is recalled: else each would wait for the other, until a timeout."""
    both = Account(name="a", limits=TOKENS_100, slots=1, when_exhausted="wait")
    await AccountBook(scripts).define(both)
    (running,), (waiting,) = await start(scripts, 0, "tokens=10"), await start(scripts, 1, "tokens=10")
    await scripts.reserve(running, POOL)
    await go_on(scripts, mover, 0)
    assert isinstance(await scripts.reserve(running, POOL), Reserved)
    assert isinstance(await scripts.reserve(waiting, POOL), Delayed)
    assert await go_on(scripts, mover, 1) == []

    assert isinstance(await scripts.extend(running, POOL, 1, {"tokens": 80}), Delayed)
    await go_on(scripts, mover, 0)
    assert await go_on(scripts, mover, 1) == []
    assert await scripts.extend(running, POOL, 1, {"tokens": 80}) is None

    await commit_claim(scripts, running, {"tokens": 90})
    assert await go_on(scripts, mover, 1) == ["0"]


async def wanted(scripts: Scripts, shard: int) -> bytes | None:
    found: bytes | None = await scripts.commands.execute("HGET", scripts.keyspace.shard("named", shard), "want|a")
    return found


@pytest.mark.parametrize("lives", [True, False])
async def test_what_a_running_step_wanted_is_forgotten_once_it_is_paid_here_or_could_be(
    scripts: Scripts, mover: SlabMover, lives: bool
) -> None:
    await AccountBook(scripts).define(REFUSING)
    asking, other = await start(scripts, 0, "tokens=10", "tokens=60")
    for claim in (asking, other):
        await scripts.reserve(claim, POOL)
        await go_on(scripts, mover, 0)
        await scripts.reserve(claim, POOL)
    assert isinstance(await scripts.extend(asking, POOL, 1, {"tokens": 50}), Delayed)
    assert await wanted(scripts, 0) == b"tokens=50"

    await commit_claim(scripts, other, {"tokens": 0})
    if lives:
        assert await scripts.extend(asking, POOL, 1, {"tokens": 50}) is None
    else:
        await commit_claim(scripts, asking, {"tokens": 0})
        await mover.serve("a", 0)

    assert await wanted(scripts, 0) is None


async def test_an_account_that_has_nothing_anywhere_says_nothing_about_another_of_the_same_step(
    scripts: Scripts, mover: SlabMover
) -> None:
    book = AccountBook(scripts)
    for name in ("a", "b"):
        await book.define(REFUSING.model_copy(update={"name": name}))
    (holder,), (far,) = await start(scripts, 0, "tokens=60"), await start(scripts, 1, "tokens=40")
    for shard, claim in enumerate((holder, far)):
        await scripts.reserve(claim, POOL)
        await go_on(scripts, mover, shard)
        assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    run_id = holder.run_id
    await advance_run(scripts, await load_run(scripts, run_id), a_dispatch("9", estimate="tokens=50", accounts="a b"))
    both = Claim(run_id, "9", 1, uuid4().hex, "w1", "q")
    assert isinstance(await scripts.reserve(both, POOL), Delayed)
    assert await go_on(scripts, mover, 0) == ["9"]  # to be refused: no shard has any of a

    await commit_claim(scripts, holder, {"tokens": 0})  # but now this one has

    answer = await scripts.reserve(both, POOL)
    assert isinstance(answer, Delayed)
    assert answer.account == "b"  # whose home was not asked yet


async def test_a_lower_limit_takes_back_what_is_free_and_a_dropped_account_leaves_no_trace(
    scripts: Scripts, mover: SlabMover, plain_redis: redis.Redis
) -> None:
    book = AccountBook(scripts)
    await book.define(PATIENT)
    (near,) = await start(scripts, 0, "tokens=40")
    (far,) = await start(scripts, 1, "tokens=50")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(near, POOL)

    await book.define(PATIENT.model_copy(update={"limits": UsageLimits(total_tokens_limit=60)}))
    await scripts.reserve(far, POOL)
    assert await go_on(scripts, mover, 1) == []
    assert await all_held(scripts) == [40, 0]
    await book.hold_back("a", timedelta(seconds=60))
    assert [
        bool(await scripts.commands.execute("HEXISTS", scripts.keyspace.shard("named", n), "closed|a")) for n in (0, 1)
    ] == [True] * 2
    await book.drop("a")

    assert await scripts.call_waiters("a", 10, 1) == [f"{far.run_id} 0 1 q"]
    fields = [
        name for n in (0, 1) for name in cast("list[bytes]", plain_redis.hkeys(scripts.keyspace.shard("named", n)))
    ]
    assert [name for name in fields if b"|a" in name] == []


async def test_scripts_that_move_nothing_change_nothing(
    scripts: Scripts, mover: SlabMover, plain_redis: redis.Redis
) -> None:
    await AccountBook(scripts).define(PATIENT)
    await AccountBook(scripts).define(Account(name="b", limits=TOKENS_100, window="day"))
    (near,) = await start(scripts, 0, "tokens=40")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    transfer = int((await scripts.commands.execute("HGET", scripts.keyspace.shard("named", 0), "slab|a")).split()[0])
    before = _dump(plain_redis, scripts.keyspace)

    assert await scripts.offer_slab("nobody", 0, 0, {}, {}, 0) is None
    assert await scripts.offer_slab("a", 0, 0, {"tokens": 50}, {}, 0) is None
    assert await scripts.lend_slab("a", 0, SlabOffer(transfer - 1, 0, {"tokens": 90}, {}, {}), {}, 1) == transfer
    assert await scripts.lend_slab("b", 0, SlabOffer(1, 86_400_000, {}, {}, {}), {}, 1) is None
    assert await scripts.lend_slab("nobody", 0, SlabOffer(1, 0, {}, {}, {}), {}, 1) is None
    again = await scripts.lend_slab("a", 0, SlabOffer(transfer, 0, {"tokens": 90}, {"tokens": 5}, {}), {}, 1)
    assert again == SlabLoan({"tokens": 52}, (), repeated=True)
    assert not await scripts.take_slab("a", 0, transfer, {"tokens": 52}, 0)
    assert not await scripts.take_slab("nobody", 0, transfer, {}, 0)

    assert _dump(plain_redis, scripts.keyspace) == before


def _dump(client: redis.Redis, keyspace: Keyspace) -> dict[str, Any]:
    return {
        f"{name} {n}": client.dump(keyspace.shard(name, n))
        for name in ("named", "named_queue", "named_due")
        for n in (0, 1)
    }


async def test_a_shard_that_forgot_its_last_transfers_goes_on_after_those_that_the_home_saw(
    scripts: Scripts, mover: SlabMover
) -> None:
    await AccountBook(scripts).define(PATIENT)
    near, later = await start(scripts, 0, "tokens=40", "tokens=30")
    key = scripts.keyspace.shard("named", 0)
    before = await scripts.commands.execute("HGET", key, "slab|a")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    await scripts.reserve(near, POOL)

    await scripts.commands.execute("HSET", key, "slab|a", before)  # as a Redis that lost its last second
    await scripts.reserve(later, POOL)
    assert await go_on(scripts, mover, 0) == ["1"]

    assert await held(scripts, 0) >= 70  # what runs, and what was called: the home counts both again


async def test_a_window_that_turns_leaves_slabs_of_it_worth_nothing_and_slots_where_they_are() -> None:
    clock = [datetime(2026, 3, 10, 23, 59).astimezone()]
    commands = MemoryRedis(MemoryStore(lambda: clock[0].timestamp()))
    scripts = Scripts(ScriptCaller(commands), Keyspace("turning", shards=2))
    mover = SlabMover(scripts)
    account = Account(name="a", limits=TOKENS_100, slots=3, window="day", when_exhausted="wait")
    for shard in (0, 1):
        await scripts.define_account("a", account.definition, account.calendar(clock[0]), (), shard)
    near, next_day = await start(scripts, 0, "tokens=80", "tokens=80")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    assert isinstance(await scripts.reserve(near, POOL), Reserved)
    assert (await all_held(scripts), await held(scripts, 0, "slots")) == ([92, 0], 1)

    clock[0] += timedelta(days=1)
    far = await start(scripts, 1, "tokens=20", "tokens=20", "tokens=20")
    for claim in (next_day, *far):
        assert isinstance(await scripts.reserve(claim, POOL), Delayed)

    assert await go_on(scripts, mover, 0) == ["1"]
    assert await go_on(scripts, mover, 1) == ["0"]  # three slots in all, two of them on the other shard
    assert [await held(scripts, shard, "slots") for shard in (0, 1)] == [2, 1]


async def test_an_audit_names_a_shard_that_holds_what_nobody_lent_it(
    scripts: Scripts, client: RedisClient, mover: SlabMover
) -> None:
    await AccountBook(scripts).define(PATIENT)
    (near,) = await start(scripts, 0, "tokens=40")
    await scripts.reserve(near, POOL)
    await go_on(scripts, mover, 0)
    auditor = AccountAuditor(client, scripts.keyspace, 10**9)
    assert await auditor.audit() == []

    home, lent = scripts.keyspace.shard("named", 1), await _lent(scripts)
    await scripts.commands.execute("HSET", home, "lent|a 0", lent.replace("tokens=52", "tokens=51"))

    assert await auditor.audit() == [Difference(NAMED, "a", "tokens", "lent to shard 0", 51, 52)]


async def _lent(scripts: Scripts) -> str:
    stored: bytes = await scripts.commands.execute("HGET", scripts.keyspace.shard("named", 1), "lent|a 0")
    return stored.decode()


class SharedCrowd(Crowd):
    """A crowd over two shards. Transfers are begun by many, end anywhere, and old scripts of them come again at any time."""

    def __init__(self, scripts: Scripts, auditor: AccountAuditor, seed: int) -> None:
        super().__init__(scripts, auditor, seed)
        self.mortal = Mortal(ScriptCaller(scripts.commands))
        self.mover = SlabMover(Scripts(self.mortal, scripts.keyspace))
        self.old: list[tuple[Script, Sequence[str], Sequence[Any]]] = []

    async def act(self) -> None:
        for _ in range(3):
            await self.call()
        await super().act()

    async def check(self) -> None:
        await super().check()
        for account in ACCOUNTS:
            slabs = [await self.slab(account.name, shard) for shard in range(2)]
            for meter, limit in account.amounts().items():
                assert sum(slab.get(meter, 0) for slab in slabs) <= limit, (account.name, meter, slabs)

    async def slab(self, name: str, shard: int) -> Amounts:
        """What a shard holds of an account."""
        stored: bytes = await self.scripts.commands.execute(
            "HGET", self.scripts.keyspace.shard("named", shard), f"slab|{name}"
        )
        return parse_amounts(" ".join(stored.decode().split()[4:]))

    async def call(self) -> None:
        await self.move()
        await super().call()

    async def move(self) -> None:
        self.mortal.revive()
        if self.chance.random() < 0.5:
            self.mortal.dies = self.chance.choice(("before", "after")), self.chance.randint(1, 9)
        name = self.chance.choice(("day", "ever", "pace", "narrow"))
        with contextlib.suppress(Killed):
            await self.mover.serve(name, self.chance.randrange(2))
        self.old = [*self.old, *self.mortal.moves][-60:]
        self.mortal.revive()
        for script, keys, args in self.chance.sample(self.old, min(3, len(self.old))):
            await self.mortal.call(script, keys, args)


@pytest.mark.parametrize("seed", range(2))
async def test_shards_together_keep_every_limit_whatever_becomes_of_transfers(
    scripts: Scripts, client: RedisClient, keyspace: Keyspace, seed: int
) -> None:
    crowd = SharedCrowd(scripts, AccountAuditor(client, keyspace, 10**9), seed)
    await crowd.start()
    for _ in range(100):
        await crowd.act()

    await end_all(crowd)

    assert min(crowd.done.values()) > 0
    assert {keyspace.shard_of(run_id) for run_id in RUNS} == {0, 1}
    await nothing_is_held(crowd)
