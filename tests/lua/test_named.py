"""Named accounts: what runs take from them together, window by window, who waits, and what comes back."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import cast

import redis

from flujo_client.account_book import AccountBook, MeterStatus
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.named import Account
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.replies import (
    Claim,
    Committed,
    Delayed,
    LeaseLost,
    Refusal,
    Reserved,
    RunInactive,
    UnknownAccount,
)
from flujo_client.protocol.scripts import Scripts
from tests.lua.runs import (
    a_dispatch,
    advance_run,
    commit_claim,
    create_run,
    load_run,
    new_claim,
    started_run,
    sweep_page,
)

TEAM = Account(name="team", limits=UsageLimits(total_tokens_limit=100), window="day")
PATIENT = TEAM.model_copy(update={"when_exhausted": "wait"})


async def meter_of(scripts: Scripts, account: str = "team", meter: str = "tokens") -> MeterStatus:
    return (await AccountBook(scripts).status(account)).meters[meter]


def member_of(claim: Claim) -> str:
    return f"{claim.run_id} {claim.path} {claim.attempt} {claim.queue}"


async def started(scripts: Scripts, count: int, estimate: str = "tokens=60", accounts: str = "team") -> list[Claim]:
    """Dispatches on one run, each of which draws on the accounts."""
    paths = [str(number) for number in range(count)]
    await started_run(scripts, *(a_dispatch(path, estimate=estimate, accounts=accounts) for path in paths))
    return [new_claim(path) for path in paths]


async def test_an_attempt_reserves_from_its_run_and_from_a_named_account_in_one_script(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    await started_run(scripts, a_dispatch("0", estimate="tokens=30", accounts="team"), limits={"tokens": 50})
    claim = new_claim()

    assert isinstance(await scripts.reserve(claim, POOL), Reserved)

    assert await meter_of(scripts) == MeterStatus(100, 30, 0, 0)
    assert await commit_claim(scripts, claim, {"tokens": 20}) == Committed({})
    assert await commit_claim(scripts, claim, {"tokens": 20}) == Committed({})
    assert await meter_of(scripts) == MeterStatus(100, 0, 20, 0)


async def test_who_may_not_wait_is_refused_and_told_account_meter_asked_and_free(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)

    refused = await scripts.reserve(second, POOL)

    assert refused == await scripts.reserve(second, POOL) == Refusal("team", "tokens", 60, 40)
    event = (await load_run(scripts)).events[-1]
    assert (event.kind, event.fields["account"], event.fields["limit"]) == ("refused", "team", "100")


async def test_who_waits_goes_on_when_another_gives_back_what_it_did_not_use(
    scripts: Scripts,
) -> None:
    await AccountBook(scripts).define(PATIENT)
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)
    delayed = await scripts.reserve(second, POOL)
    assert isinstance(delayed, Delayed)
    assert delayed.wait_ms is not None
    assert 0 < delayed.wait_ms <= 86_400_000  # the day turns then
    assert await scripts.call_waiters("team", 10) == []

    await commit_claim(scripts, first, {"tokens": 5})

    page = await sweep_page(scripts)
    assert page is not None
    assert page.accounts == ["team"]
    assert await scripts.call_waiters("team", 10) == [member_of(second)]
    assert await meter_of(scripts) == MeterStatus(100, 60, 5, 0)
    assert await scripts.redispatch(member_of(second), 0, 2_000)
    assert isinstance(await scripts.reserve(second, POOL), Reserved)
    assert await meter_of(scripts) == MeterStatus(100, 60, 5, 0)


async def test_waiters_go_on_in_the_order_in_which_they_came(scripts: Scripts) -> None:
    await AccountBook(scripts).define(PATIENT)
    first, *others = await started(scripts, 5)
    await scripts.reserve(first, POOL)
    for other in others:
        assert isinstance(await scripts.reserve(other, POOL), Delayed)
        assert isinstance(await scripts.reserve(other, POOL), Delayed)  # delivered twice: it waits once

    order = []
    for claim in (first, *others[:-1]):
        await commit_claim(scripts, claim, {})
        (called,) = await scripts.call_waiters("team", 10)
        order.append(called)
        assert isinstance(await scripts.reserve(others[len(order) - 1], POOL), Reserved)

    assert order == [member_of(claim) for claim in others]
    assert (await AccountBook(scripts).status("team")).waiting == 0


async def test_who_comes_later_does_not_overtake_those_who_wait(scripts: Scripts) -> None:
    await AccountBook(scripts).define(PATIENT)
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)
    await scripts.reserve(second, POOL)
    await create_run(scripts, "r2")
    loaded = await load_run(scripts, "r2")
    await advance_run(scripts, loaded, a_dispatch("0", estimate="tokens=1", accounts="team"))

    later = await scripts.reserve(Claim("r2", "0", 1, "n2", "w1", "q"), POOL)

    assert isinstance(later, Delayed)
    await commit_claim(scripts, first, {})
    assert await scripts.call_waiters("team", 10) == [member_of(second), "r2 0 1 q"]


async def test_who_asks_for_more_than_there_ever_is_is_refused_and_does_not_wait(scripts: Scripts) -> None:
    await AccountBook(scripts).define(PATIENT)
    (claim,) = await started(scripts, 1, "tokens=101")

    assert await scripts.reserve(claim, POOL) == Refusal("team", "tokens", 101, 100)


async def test_who_estimates_nothing_is_not_let_in_by_an_exhausted_account(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    first, second, third = await started(scripts, 3, "")
    await scripts.reserve(first, POOL)
    await scripts.reserve(second, POOL)

    await commit_claim(scripts, first, {"tokens": 130})

    assert await meter_of(scripts) == MeterStatus(100, 0, 130, 0)
    assert isinstance(await scripts.reserve(third, POOL), Refusal)


async def test_what_a_lost_attempt_had_reserved_stays_charged_as_unknown_until_its_bill_comes(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    (claim,) = await started(scripts, 1)
    await scripts.reserve(claim, POOL)
    await scripts.register("incarnations", "w1", -1, 0)

    assert await scripts.lose(claim, POOL, "died", {})

    assert await meter_of(scripts) == MeterStatus(100, 0, 0, 60)
    assert isinstance(await commit_claim(scripts, claim, {"tokens": 45}), LeaseLost)
    assert isinstance(await commit_claim(scripts, claim, {"tokens": 45}), LeaseLost)
    assert await meter_of(scripts) == MeterStatus(100, 0, 45, 0)


async def test_what_was_never_started_costs_a_named_account_nothing(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    (claim,) = await started(scripts, 1)
    await scripts.reserve(claim, POOL)

    assert await scripts.lose(claim, POOL, "stranger", {})

    assert await meter_of(scripts) == MeterStatus(100, 0, 0, 0)


async def test_a_cancelled_run_gives_back_what_it_was_called_with_and_waits_no_more(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await AccountBook(scripts).define(PATIENT)
    first, second, third = await started(scripts, 3)
    for claim in (first, second, third):
        await scripts.reserve(claim, POOL)
    await commit_claim(scripts, first, {})
    assert await scripts.call_waiters("team", 10) == [member_of(second)]

    await scripts.cancel("r1", POOL, "why")
    for claim in (second, third):
        assert not await scripts.redispatch(member_of(claim), 0, 2_000)  # as the sweep does

    assert await meter_of(scripts) == MeterStatus(100, 0, 0, 0)
    assert (await AccountBook(scripts).status("team")).waiting == 0
    assert isinstance(await scripts.reserve(second, POOL), RunInactive)
    fields = cast("dict[bytes, bytes]", plain_redis.hgetall(keyspace.shard("named")))
    assert [field for field in fields if field.startswith(b"place|")] == []


async def test_who_waits_for_one_account_is_refused_once_another_never_can_pay(scripts: Scripts) -> None:
    await AccountBook(scripts).define(Account(name="a-key", slots=1, when_exhausted="wait"))
    await AccountBook(scripts).define(TEAM)
    first, second = await started(scripts, 2, accounts="a-key team")
    await scripts.reserve(first, POOL)
    await AccountBook(scripts).define(TEAM.model_copy(update={"limits": UsageLimits(total_tokens_limit=200)}))
    assert isinstance(await scripts.reserve(second, POOL), Delayed)

    await AccountBook(scripts).define(TEAM)
    await commit_claim(scripts, first, {"tokens": 60})

    assert await scripts.call_waiters("a-key", 10) == [member_of(second)]
    assert await scripts.reserve(second, POOL) == Refusal("team", "tokens", 60, 40)
    assert (await AccountBook(scripts).status("a-key")).waiting == 0
    assert await meter_of(scripts, "a-key", "slots") == MeterStatus(1, 0, 0, 0)


async def test_whom_a_dead_run_stood_before_is_called_when_that_one_is_dropped(scripts: Scripts) -> None:
    await AccountBook(scripts).define(Account(name="team", limits=TEAM.limits, when_exhausted="wait"))
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)
    await scripts.reserve(second, POOL)
    await create_run(scripts, "r2")
    await advance_run(scripts, await load_run(scripts, "r2"), a_dispatch("0", estimate="tokens=1", accounts="team"))
    assert isinstance(await scripts.reserve(Claim("r2", "0", 1, "n2", "w1", "q"), POOL), Delayed)
    assert await scripts.call_waiters("team", 10) == []

    await scripts.cancel("r1", POOL, "why")
    await scripts.redispatch(member_of(second), 0, 2_000)

    page = await sweep_page(scripts)
    assert page is not None
    assert page.accounts == ["team"]
    assert await scripts.call_waiters("team", 10) == ["r2 0 1 q"]


async def test_who_was_called_and_finds_no_worker_holds_nothing_and_stays_as_old_as_it_is(scripts: Scripts) -> None:
    await AccountBook(scripts).define(Account(name="team", slots=1, when_exhausted="wait"))
    first, second, third = await started(scripts, 3, "")
    for claim in (first, second, third):
        await scripts.reserve(claim, POOL)
    await commit_claim(scripts, first, {})
    assert await scripts.call_waiters("team", 10) == [member_of(second)]

    assert await scripts.decline(member_of(second), "1", 1, "s", 500)
    assert await scripts.call_waiters("team", 10) == [member_of(third)]
    assert isinstance(await scripts.reserve(second, POOL), Delayed)
    await scripts.reserve(third, POOL)
    await commit_claim(scripts, third, {})

    assert await scripts.call_waiters("team", 10) == [member_of(second)]
    assert isinstance(await scripts.reserve(second, POOL), Reserved)


async def test_an_account_whose_window_changes_begins_empty_and_keeps_its_slots(scripts: Scripts) -> None:
    book = AccountBook(scripts)
    minute = Account(name="team", limits=TEAM.limits, slots=3, window=timedelta(minutes=1))
    await book.define(minute)
    first, second = await started(scripts, 2, "tokens=30")
    await scripts.reserve(first, POOL)

    await book.define(minute.model_copy(update={"limits": UsageLimits(total_tokens_limit=90)}))
    assert await meter_of(scripts) == MeterStatus(90, 0, 30, 0)
    await book.define(minute.model_copy(update={"window": "month"}))
    assert await meter_of(scripts) == MeterStatus(100, 0, 0, 0)
    assert await meter_of(scripts, meter="slots") == MeterStatus(3, 1, 0, 0)
    await scripts.reserve(second, POOL)
    await book.define(minute)
    for claim in (first, second):
        await commit_claim(scripts, claim, {"tokens": 35})

    assert await meter_of(scripts) == MeterStatus(100, 0, 10, 0)
    assert await meter_of(scripts, meter="slots") == MeterStatus(3, 0, 0, 0)


async def test_an_account_that_is_defined_anew_keeps_what_it_took_and_lets_nobody_in_beyond_its_new_limit(
    scripts: Scripts,
) -> None:
    book = AccountBook(scripts)
    await book.define(TEAM)
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)
    await commit_claim(scripts, first, {"tokens": 50})

    await book.define(TEAM.model_copy(update={"limits": UsageLimits(total_tokens_limit=40)}))

    assert await meter_of(scripts) == MeterStatus(40, 0, 50, 0)
    assert await scripts.reserve(second, POOL) == Refusal("team", "tokens", 60, 0)


async def test_slots_bound_what_runs_at_once_and_come_free_when_a_worker_dies(scripts: Scripts) -> None:
    await AccountBook(scripts).define(Account(name="team", slots=1, when_exhausted="wait"))
    first, second, third = await started(scripts, 3, "")
    await scripts.reserve(first, POOL)
    assert await scripts.reserve(second, POOL) == Delayed("team", "slots", None)
    assert await scripts.reserve(third, POOL) == Delayed("team", "slots", None)

    await scripts.register("incarnations", "w1", -1, 0)
    assert await scripts.lose(first, POOL, "died", {})

    assert await scripts.call_waiters("team", 10) == [member_of(second)]
    assert isinstance(await scripts.reserve(second, POOL), Reserved)
    assert await meter_of(scripts, meter="slots") == MeterStatus(1, 1, 0, 0)
    await commit_claim(scripts, second, {"tokens": 7})
    assert await meter_of(scripts, meter="slots") == MeterStatus(1, 0, 0, 0)


async def test_an_attempt_that_asks_for_more_while_it_runs_draws_on_named_accounts_too(scripts: Scripts) -> None:
    await AccountBook(scripts).define(TEAM)
    (claim,) = await started(scripts, 1)
    await scripts.reserve(claim, POOL)

    assert await scripts.extend(claim, POOL, 1, {"tokens": 30}) is None
    assert await scripts.extend(claim, POOL, 1, {"tokens": 30}) is None
    assert await scripts.extend(claim, POOL, 2, {"tokens": 30}) == Refusal("team", "tokens", 30, 10)

    assert await meter_of(scripts) == MeterStatus(100, 90, 0, 0)
    await commit_claim(scripts, claim, {"tokens": 80})
    assert await meter_of(scripts) == MeterStatus(100, 0, 80, 0)


async def test_running_steps_that_ask_for_more_pass_the_first_who_waits_sixteen_times_at_the_most(
    scripts: Scripts,
) -> None:
    """Then what the account has is kept for it, but for who has waited ten seconds in its place: it may hold what the other needs."""
    await AccountBook(scripts).define(PATIENT)
    await started_run(
        scripts,
        a_dispatch("0", estimate="tokens=30", accounts="team"),
        a_dispatch("1", estimate="tokens=80", accounts="team"),
    )
    running, waiting = new_claim("0"), new_claim("1")
    assert isinstance(await scripts.reserve(running, POOL), Reserved)
    assert isinstance(await scripts.reserve(waiting, POOL), Delayed)

    answers = [await scripts.extend(running, POOL, 1 + number, {"tokens": 1}) for number in range(17)]
    late = await scripts.extend(running, POOL, 17, {"tokens": 1}, 9_999)
    at_last = await scripts.extend(running, POOL, 17, {"tokens": 1}, 10_000)

    assert answers[:16] == [None] * 16
    assert isinstance(answers[16], Delayed)
    assert isinstance(late, Delayed)
    assert at_last is None
    await commit_claim(scripts, running, {"tokens": 0})
    assert await scripts.call_waiters("team", 10) == [member_of(waiting)]


async def test_the_first_request_of_an_attempt_was_booked_with_it_and_waits_for_nothing(scripts: Scripts) -> None:
    """Its own booking fills the account: it would wait for itself."""
    await AccountBook(scripts).define(
        Account(name="team", limits=UsageLimits(meters={"requests": 1}), when_exhausted="wait")
    )
    (claim,) = await started(scripts, 1)
    await scripts.reserve(claim, POOL)

    assert await scripts.extend(claim, POOL, 1, {"requests": 1}) is None
    assert await meter_of(scripts, meter="requests") == MeterStatus(1, 1, 0, 0)


async def test_rules_and_submissions_name_the_accounts_of_a_run(scripts: Scripts) -> None:
    book = AccountBook(scripts)
    await book.define(TEAM.model_copy(update={"pipelines": ("p*", "x")}))
    await book.define(Account(name="other", slots=1, pipelines=("q",)))

    await create_run(scripts, "r1", accounts=("other",))
    unknown = await create_run(scripts, "r2", accounts=("nobody",))

    assert (await load_run(scripts)).record["accounts"] == "other team"
    assert unknown == UnknownAccount("nobody")
    assert await scripts.load_run("r2", 1) is None


async def test_an_account_that_is_dropped_limits_nobody(scripts: Scripts) -> None:
    book = AccountBook(scripts)
    await book.define(PATIENT)
    first, second = await started(scripts, 2)
    await scripts.reserve(first, POOL)
    await scripts.reserve(second, POOL)

    await book.drop("team")

    assert await book.names() == []
    assert await scripts.call_waiters("team", 10) == [member_of(second)]
    assert isinstance(await scripts.reserve(second, POOL), Reserved)
    assert await commit_claim(scripts, first, {"tokens": 5}) == Committed({})


def test_a_day_begins_at_midnight_in_its_time_zone_also_when_clocks_change() -> None:
    account = TEAM.model_copy(update={"time_zone": "Europe/Berlin"})

    starts = account.calendar(datetime(2026, 10, 24, 12, tzinfo=UTC))
    months = account.model_copy(update={"window": "month"}).calendar(datetime(2026, 12, 24, tzinfo=UTC))

    hours = [(after - before) // 3_600_000 for before, after in itertools.pairwise(starts[:5])]
    assert hours == [24, 25, 24, 24]
    assert datetime.fromtimestamp(starts[0] / 1000, UTC) == datetime(2026, 10, 23, 22, tzinfo=UTC)
    assert datetime.fromtimestamp(months[1] / 1000, UTC) == datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert Account(name="a", slots=1, window=timedelta(seconds=60)).calendar(datetime.now(UTC)) == []
