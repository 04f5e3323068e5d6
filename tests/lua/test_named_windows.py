"""Windows of named accounts on a clock of the test's own: days that turn, minutes that slide. The scripts see `TIME` as anywhere."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flujo_client.account_book import AccountBook, MeterStatus
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.replies import Claim, Delayed, Reserved
from flujo_client.protocol.scripts import Scripts
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore
from tests.lua.runs import a_dispatch, commit_claim, new_claim, started_run, sweep_page

BERLIN = ZoneInfo("Europe/Berlin")
TOKENS_100 = UsageLimits(total_tokens_limit=100)
DAY = Account(name="a", limits=TOKENS_100, window="day", time_zone="Europe/Berlin", when_exhausted="wait")
MINUTE = Account(name="a", limits=TOKENS_100, window=timedelta(minutes=1), when_exhausted="wait")


class World:
    """Scripts and a clock."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.scripts = Scripts(ScriptCaller(MemoryRedis(MemoryStore(lambda: self.now.timestamp()))), Keyspace("ns"))

    async def define(self, account: Account) -> None:
        calendar = account.calendar(self.now)
        await self.scripts.define_account(account.name, account.definition, calendar, ())

    async def start(self, *estimates: str) -> list[Claim]:
        rows = [a_dispatch(str(path), estimate=estimate, accounts="a") for path, estimate in enumerate(estimates)]
        await started_run(self.scripts, *rows)
        return [new_claim(str(path)) for path in range(len(estimates))]

    async def reserve(self, claim: Claim) -> int | None:
        """Seconds until it may have room; None if it was reserved."""
        answer = await self.scripts.reserve(claim, POOL)
        if isinstance(answer, Reserved):
            return None
        assert isinstance(answer, Delayed), answer
        return (answer.wait_ms or 0) // 1000

    async def due(self) -> list[str]:
        """Who is called by a sweep at this moment."""
        await self.scripts.register("incarnations", "w1", 10**9, 0)
        page = await sweep_page(self.scripts)
        assert page is not None
        return [member for name in page.accounts for member in await self.scripts.call_waiters(name, 10)]

    async def meter(self) -> MeterStatus:
        return (await AccountBook(self.scripts).status("a")).meters["tokens"]


async def test_who_waits_for_the_day_to_turn_goes_on_at_midnight_where_the_account_is_at_home() -> None:
    world = World(datetime(2026, 3, 28, 23, 0, tzinfo=BERLIN))  # the night in which clocks change
    await world.define(DAY)
    first, second, third = await world.start("tokens=60", "tokens=60", "tokens=60")
    assert await world.reserve(first) is None
    assert await world.reserve(second) == 3600
    assert await world.reserve(third) == 3600
    await commit_claim(world.scripts, first, {"tokens": 60})

    world.now = datetime(2026, 3, 28, 23, 59, 59, tzinfo=BERLIN)
    before = await world.due()
    world.now = datetime(2026, 3, 29, 0, 0, 1, tzinfo=BERLIN)
    after = await world.due()

    assert before == []
    assert after == ["r1 1 1 q"]
    assert await world.meter() == MeterStatus(100, 60, 0, 0)
    assert await world.reserve(second) is None
    assert await world.reserve(third) == 22 * 3600 + 3599  # this day has 23 hours


async def test_what_was_reserved_yesterday_belongs_to_yesterday() -> None:
    world = World(datetime(2026, 5, 1, 23, 0, tzinfo=BERLIN))
    await world.define(DAY)
    early, late, lost = await world.start("tokens=40", "tokens=40", "tokens=20")
    for claim in (early, late, lost):
        await world.reserve(claim)
    await commit_claim(world.scripts, early, {"tokens": 40})

    world.now += timedelta(hours=2)
    assert await world.meter() == MeterStatus(100, 0, 0, 0)
    await commit_claim(world.scripts, late, {"tokens": 45})
    await world.scripts.register("incarnations", "w1", -1, 0)
    await world.scripts.lose(lost, POOL, "died", {})

    assert await world.meter() == MeterStatus(100, 0, 5, 0)  # what no estimate had covered became known today


async def test_a_month_turns_on_its_first() -> None:
    world = World(datetime(2026, 12, 31, 22, 59, tzinfo=UTC))
    await world.define(DAY.model_copy(update={"window": "month"}))
    first, second = await world.start("tokens=60", "tokens=60")
    await world.reserve(first)
    assert await world.reserve(second) == 60

    world.now += timedelta(minutes=2)

    assert await world.due() == ["r1 1 1 q"]


async def test_a_sliding_window_lets_in_what_left_it_and_no_more() -> None:
    world = World(datetime(2026, 5, 1, 12, 0, tzinfo=UTC))
    await world.define(MINUTE)
    claims = await world.start("tokens=60", "tokens=40", "tokens=50", "tokens=30")
    assert await world.reserve(claims[0]) is None
    world.now += timedelta(seconds=30)
    assert await world.reserve(claims[1]) is None
    assert await world.reserve(claims[2]) in (30, 31)
    assert await world.reserve(claims[3]) in (30, 31)

    called: dict[float, list[str]] = {}
    for _ in range(140):
        world.now += timedelta(seconds=0.5)
        members = await world.due()
        if members:
            called[world.now.timestamp() - datetime(2026, 5, 1, 12, 0, tzinfo=UTC).timestamp()] = members
    (at_60, first), (at_90, second) = called.items()

    assert (first, second) == (["r1 2 1 q"], ["r1 3 1 q"])
    assert 60 <= at_60 <= 61
    assert 90 <= at_90 <= 91


async def test_what_an_attempt_did_not_use_makes_room_in_the_minute_in_which_it_was_reserved() -> None:
    world = World(datetime(2026, 5, 1, 12, 0, tzinfo=UTC))
    await world.define(MINUTE)
    first, second = await world.start("tokens=60", "tokens=60")
    await world.reserve(first)
    await world.reserve(second)

    world.now += timedelta(seconds=10)
    await commit_claim(world.scripts, first, {"tokens": 30})

    assert await world.due() == ["r1 1 1 q"]
    assert await world.meter() == MeterStatus(100, 0, 90, 0)


async def test_a_process_that_stands_still_after_its_reservation_may_call_in_the_minute_after() -> None:
    """The account counts it when it reserved: a process that begins only now calls beside the one that is let in now."""
    world = World(datetime(2026, 3, 2, 12, 0, tzinfo=UTC))
    await world.define(MINUTE)
    stopped, later = await world.start("tokens=60", "tokens=60")
    assert await world.reserve(stopped) is None
    assert await world.reserve(later) == 60

    world.now += timedelta(seconds=61)
    called = await world.due()

    assert len(called) == 1
    assert await world.reserve(later) is None
    await commit_claim(world.scripts, stopped, {"tokens": 60})  # what both used came in the same minute
    await commit_claim(world.scripts, later, {"tokens": 60})
    assert await world.meter() == MeterStatus(100, 0, 60, 0)


async def test_an_attempt_that_outlives_its_window_charges_only_what_it_used_beyond_its_estimate() -> None:
    world = World(datetime(2026, 5, 1, 12, 0, tzinfo=UTC))
    await world.define(MINUTE)
    (claim,) = await world.start("tokens=60")
    await world.reserve(claim)

    world.now += timedelta(minutes=5)
    assert await world.meter() == MeterStatus(100, 0, 0, 0)
    await commit_claim(world.scripts, claim, {"tokens": 70})

    assert await world.meter() == MeterStatus(100, 0, 10, 0)


@pytest.mark.parametrize("account", [DAY, MINUTE], ids=["day", "minute"])
async def test_a_wake_up_that_nobody_acted_on_is_made_good_by_looking_again(account: Account) -> None:
    world = World(datetime(2026, 5, 1, 12, 0, tzinfo=BERLIN))
    await world.define(account)
    first, second = await world.start("tokens=60", "tokens=60")
    await world.reserve(first)
    await world.reserve(second)
    await commit_claim(world.scripts, first, {})
    await world.scripts.commands.execute("DEL", world.scripts.keyspace.shard("named_due"))

    world.now += timedelta(minutes=6)
    assert not await world.scripts.redispatch("r1 1 1 q", 0, 2_000)  # as the sweep does when its time is over

    assert await world.due() == ["r1 1 1 q"]
