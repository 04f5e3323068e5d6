"""Who waits for several named accounts at once: it is passed over a bounded number of times, and holds up nobody without need."""

from __future__ import annotations

import redis

from flujo_client.account_book import AccountBook
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.replies import Claim, Delayed, Reserved
from flujo_client.protocol.scripts import Scripts
from tests.conftest import dump
from tests.lua.runs import a_dispatch, commit_claim, new_claim, started_run, sweep_page

LEFT, RIGHT = (Account(name=name, slots=1, when_exhausted="wait") for name in ("left", "right"))
#: How often a waiter is called in vain before it stands in all of its accounts: MOST_IN_VAIN of _places.lua.
MOST_IN_VAIN = 4


def member_of(claim: Claim) -> str:
    return f"{claim.run_id} {claim.path} {claim.attempt} {claim.queue}"


class Traffic:
    """One slot each of two accounts, taken in turns by steps of one account; step `0` needs both."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.both = new_claim("0")
        self.held: dict[str, Claim] = {}
        self.begun = 0

    async def start(self) -> None:
        for account in (LEFT, RIGHT):
            await AccountBook(self.scripts).define(account)
        singles = (a_dispatch(str(number), accounts=self.side(number)) for number in range(1, 60))
        await started_run(self.scripts, a_dispatch("0", accounts="left right"), *singles)

    def side(self, number: int) -> str:
        return ("left", "right")[number % 2]

    async def begin(self) -> object:
        """The next step of one account asks to start, on the two sides in turns."""
        self.begun += 1
        claim = new_claim(str(self.begun))
        answer = await self.scripts.reserve(claim, POOL)
        if isinstance(answer, Reserved):
            self.held[self.side(self.begun)] = claim
        return answer

    async def end(self, side: str) -> list[str]:
        """The step that holds a side ends; those who may go on are called."""
        await commit_claim(self.scripts, self.held.pop(side))
        return await self.scripts.call_waiters(side, 10)

    async def pass_over(self) -> int:
        """Later steps of one account go on starting until none can; how many passed the one that needs both."""
        await self.begin()
        await self.begin()
        assert isinstance(await self.scripts.reserve(self.both, POOL), Delayed)
        for passed in range(50):
            assert await self.end(self.side(self.begun + 1)) == []
            if isinstance(await self.begin(), Delayed):
                return passed
        return 50


async def test_a_step_that_needs_several_accounts_is_passed_over_a_bounded_number_of_times(scripts: Scripts) -> None:
    """Whenever it is its turn the other account is taken, and a later step gets in; after four times nobody passes it in any."""
    traffic = Traffic(scripts)
    await traffic.start()

    passed = await traffic.pass_over()

    assert passed == MOST_IN_VAIN
    (side,) = traffic.held
    assert await traffic.end(side) == [member_of(traffic.both)]
    assert isinstance(await scripts.reserve(traffic.both, POOL), Reserved)


async def test_whom_it_stood_before_goes_on_once_it_has_had_its_turn(scripts: Scripts) -> None:
    traffic = Traffic(scripts)
    await traffic.start()
    await traffic.pass_over()
    behind = new_claim(str(traffic.begun))
    (side,) = traffic.held
    await traffic.end(side)
    await scripts.reserve(traffic.both, POOL)

    assert await scripts.call_waiters(traffic.side(traffic.begun), 10) == []  # its slot is taken now
    await commit_claim(scripts, traffic.both)

    assert await scripts.call_waiters(traffic.side(traffic.begun), 10) == [member_of(behind)]


async def test_a_dead_run_that_stood_in_all_of_its_accounts_leaves_all_of_them(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    traffic = Traffic(scripts)
    await traffic.start()
    await traffic.pass_over()

    await scripts.cancel("r1", POOL, "why")
    assert not await scripts.redispatch(member_of(traffic.both), 0, 2_000)

    assert [(await AccountBook(scripts).status(name)).waiting for name in ("left", "right")].count(0) == 1
    page = await sweep_page(scripts)
    assert page is not None
    assert page.accounts == [traffic.side(traffic.begun)]  # for the one that waits behind it
    assert f"place|{member_of(traffic.both)}" not in str(dump(plain_redis, keyspace))


async def test_nobody_who_is_called_passes_an_older_one_in_another_of_its_accounts(scripts: Scripts) -> None:
    """`1` came before `2` and waits for the right; `2`, which needs both, is called for the left."""
    for account in (LEFT, RIGHT):
        await AccountBook(scripts).define(account)
    both = [a_dispatch(path, accounts="left right") for path in "02"]
    await started_run(scripts, *both, a_dispatch("1", accounts="right"))
    first, older, later = new_claim("0"), new_claim("1"), new_claim("2")
    assert isinstance(await scripts.reserve(first, POOL), Reserved)
    for claim in (older, later):
        assert isinstance(await scripts.reserve(claim, POOL), Delayed)

    await commit_claim(scripts, first)

    assert await scripts.call_waiters("left", 10) == []
    assert await scripts.call_waiters("right", 10) == [member_of(older)]


async def test_of_several_meters_the_one_that_is_short_is_named_to_whom_it_makes_wait(scripts: Scripts) -> None:
    """One slot and plenty of all else: also who waits behind another is told of the slot."""
    meters = {f"m{number}": 1_000 for number in range(8)}
    limits = UsageLimits(total_cost_usd_limit=5, total_tokens_limit=1_000, meters=meters)
    await AccountBook(scripts).define(Account(name="key", limits=limits, slots=1, when_exhausted="wait"))
    asks = "cost_nanousd=1 tokens=1 " + " ".join(f"{meter}=1" for meter in meters)
    await started_run(scripts, *(a_dispatch(path, estimate=asks, accounts="key") for path in "012"))
    assert isinstance(await scripts.reserve(new_claim("0"), POOL), Reserved)

    answers = [await scripts.reserve(new_claim(path), POOL) for path in "12"]

    assert [(answer.account, answer.meter) for answer in answers if isinstance(answer, Delayed)] == [
        ("key", "slots")
    ] * 2
