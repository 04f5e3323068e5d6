"""Attempts that wait for budget: who is blocked, who goes on when some comes free, and who is refused in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.quota import share_by_weights, share_evenly
from flujo_client.protocol.replies import (
    Advanced,
    Blocked,
    BranchEnd,
    Claim,
    Committed,
    Dispatch,
    Refusal,
    Reserved,
    Split,
)
from flujo_client.protocol.scripts import Scripts
from tests.conftest import dump
from tests.lua.runs import (
    a_dispatch,
    account_of,
    accounts_of,
    advance_run,
    check_accounts,
    commit_claim,
    create_run,
    load_run,
    new_claim,
)

MEMBER = "r1 {} 1 q"


async def split_run(
    scripts: Scripts,
    asks: list[int],
    cap: int,
    *more: Dispatch,
    strict: bool = False,
    opening: bool = False,
    weights: Sequence[int] = (),
) -> None:
    """A run of `cap` tokens whose node 1 has a branch for each ask; the branch's first step asks for so much."""
    await create_run(scripts, limits={"tokens": cap})
    await scripts.register("incarnations", "w1", 600_000, 0)
    mark = "=" if strict else ""
    steps = [a_dispatch(f"1.{i}.0", estimate=f"tokens={ask}", chain=f"1.{i}{mark} root") for i, ask in enumerate(asks)]
    shares = share_by_weights(cap, weights) if weights else share_evenly(cap, len(asks))
    split = Split("1", ("root",), "tokens", shares)
    answer = await advance_run(scripts, await load_run(scripts), *steps, *more, splits=(split,), opening=opening)
    assert isinstance(answer, Advanced)


async def reserve(scripts: Scripts, path: str) -> object:
    return await scripts.reserve(new_claim(path), POOL)


async def end_branch(scripts: Scripts, *accounts: str) -> None:
    ends = tuple(BranchEnd((account, "root")) for account in accounts)
    assert isinstance(await advance_run(scripts, await load_run(scripts), ends=ends), Advanced)


async def events(scripts: Scripts, *kinds: EventKind) -> list[Event]:
    loaded = await scripts.load_run("r1", 1000)
    assert loaded is not None
    return [event for event in loaded.events if event.kind in kinds]


async def woken_paths(scripts: Scripts) -> list[str]:
    return [event.path for event in await events(scripts, EventKind.UNBLOCKED)]


def journalled(client: redis.Redis, keyspace: Keyspace) -> list[str]:
    return [member.decode() for member in cast("list[bytes]", client.zrange(keyspace.shard("dispatches"), 0, -1))]


def state_of(client: redis.Redis, keyspace: Keyspace, path: str) -> str:
    state = cast("bytes", client.hget(keyspace.run("r1").attempts, f"{path}|state"))
    return state.decode()


async def test_a_branch_that_cannot_pay_while_a_sibling_runs_is_blocked(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 60], 100)
    assert isinstance(await reserve(scripts, "1.0.0"), Reserved)
    claim = new_claim("1.1.0")

    blocked = await scripts.reserve(claim, POOL)

    assert blocked == Blocked("1.1", "tokens", 60, 50)
    assert state_of(plain_redis, keyspace, "1.1.0") == "blocked"
    assert plain_redis.zcard(keyspace.held("w1", 0)) == 1  # of the sibling
    assert MEMBER.format("1.1.0") not in journalled(plain_redis, keyspace)
    (event,) = await events(scripts, EventKind.BLOCKED)
    assert (event.path, event.attempt, event.fields["asked"], event.fields["free"]) == ("1.1.0", 1, "60", "50")
    before = dump(plain_redis, keyspace)
    assert await scripts.reserve(claim, POOL) == blocked
    assert dump(plain_redis, keyspace) == before


async def test_what_a_branch_gives_back_lets_exactly_those_go_on_that_can_in_declared_order(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [25, 60, 40, 90, 35], 125)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    for path in ("1.4.0", "1.3.0", "1.2.0", "1.1.0"):
        assert isinstance(await reserve(scripts, path), Blocked)
    await commit_claim(scripts, claim, {"tokens": 0})
    assert await events(scripts, EventKind.UNBLOCKED) == []  # its share is its own until its branch ends

    await end_branch(scripts, "1.0")

    woken = await events(scripts, EventKind.UNBLOCKED)
    assert [event.path for event in woken] == [
        "1.2.0",
        "1.4.0",
    ]  # 25: 15 for one, 10 for the other; 35 and 65 for the rest
    assert (await load_run(scripts)).record["last_event"] == woken[-1].id
    assert [member for member in journalled(plain_redis, keyspace)] == [MEMBER.format("1.2.0"), MEMBER.format("1.4.0")]
    assert account_of(plain_redis, keyspace, "1.2")["reserved"] == 40
    assert isinstance(await reserve(scripts, "1.4.0"), Reserved)
    assert account_of(plain_redis, keyspace, "1.4")["reserved"] == 35
    assert state_of(plain_redis, keyspace, "1.1.0") == "blocked"


async def test_whoever_can_pay_goes_on_however_many_wait_before_him(scripts: Scripts) -> None:
    """Shares of 3 tokens; eighty ask for more than comes free, each for another amount, and the last but one for 5."""
    await split_run(scripts, [3, 3, *range(20, 100), 5, 6], 3 * 84)
    claims = [new_claim("1.0.0"), new_claim("1.1.0")]
    for claim in claims:
        assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    for index in range(2, 84):
        assert isinstance(await reserve(scripts, f"1.{index}.0"), Blocked)

    woken = []
    for claim in claims:
        await commit_claim(scripts, claim, {"tokens": 0})
        await end_branch(scripts, claim.path.removesuffix(".0"))
        woken.append(await woken_paths(scripts))

    assert woken == [["1.82.0"], ["1.83.0"]]


async def test_a_woken_attempt_whose_message_is_lost_is_published_again_and_pays_once(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 60], 100)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    await reserve(scripts, "1.1.0")
    await commit_claim(scripts, claim, {"tokens": 1})
    await end_branch(scripts, "1.0")

    assert await scripts.redispatch(MEMBER.format("1.1.0"), 1, 2000)
    second = new_claim("1.1.0")
    assert isinstance(await scripts.reserve(second, POOL), Reserved)

    assert account_of(plain_redis, keyspace, "1.1")["reserved"] == 60
    assert await commit_claim(scripts, second, {"tokens": 60}) == Committed({})
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 100})


async def test_when_every_branch_is_stuck_the_lowest_draws_on_what_the_others_have_free(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [60, 70, 90], 120)
    assert isinstance(await reserve(scripts, "1.2.0"), Blocked)
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)

    assert isinstance(await reserve(scripts, "1.0.0"), Blocked)  # and woken in the same script

    assert await woken_paths(scripts) == ["1.0.0"]
    assert account_of(plain_redis, keyspace, "1.0")["reserved"] == 60
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 120})


async def test_only_what_the_whole_tree_cannot_pay_is_refused(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [30, 101], 100)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)
    await commit_claim(scripts, claim, {"tokens": 10})
    assert await events(scripts, EventKind.REFUSED) == []

    await end_branch(scripts, "1.0")

    (refused,) = await events(scripts, EventKind.REFUSED)
    wanted = {"account": "1.1", "meter": "tokens", "asked": "101", "free": "90", "attempt": "1"}
    assert (refused.path, refused.fields) == ("1.1.0", wanted)
    assert state_of(plain_redis, keyspace, "1.1.0") == "closed"


async def test_an_attempt_that_nobody_can_pay_and_nobody_runs_beside_is_refused_at_once(scripts: Scripts) -> None:
    await split_run(scripts, [30, 101], 100)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    await commit_claim(scripts, claim, {"tokens": 10})
    await end_branch(scripts, "1.0")
    asking = new_claim("1.1.0")

    refused = await scripts.reserve(asking, POOL)

    assert refused == Refusal("1.1", "tokens", 101, 90)
    assert await scripts.reserve(asking, POOL) == refused
    assert await events(scripts, EventKind.BLOCKED) == []


async def nested_run(scripts: Scripts) -> None:
    """200 tokens: branches 1.0 and 1.1 of 100; 1.0 has branches of 50 that ask for 80 and 40, 1.1 asks for 100."""
    await split_run(scripts, [0, 100], 200)
    inner = [
        a_dispatch(f"1.0.1.{index}.0", estimate=f"tokens={ask}", chain=f"1.0.1.{index} 1.0 root")
        for index, ask in enumerate((80, 40))
    ]
    split = Split("1.0.1", ("1.0", "root"), "tokens", share_evenly(100, 2))
    assert isinstance(await advance_run(scripts, await load_run(scripts), *inner, splits=(split,)), Advanced)


async def test_the_innermost_split_that_is_stuck_is_pooled_first(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await nested_run(scripts)
    assert isinstance(await reserve(scripts, "1.1.0"), Reserved)
    claim = new_claim("1.0.1.1.0")
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    assert isinstance(await reserve(scripts, "1.0.1.0.0"), Blocked)
    await commit_claim(scripts, claim, {"tokens": 0})
    assert await events(scripts, EventKind.UNBLOCKED) == []
    retry = Dispatch("1.0.1.1.0", 2, "q", "m:f", "l", delay_ms=60_000)
    await advance_run(scripts, await load_run(scripts), retry)

    assert await woken_paths(scripts) == ["1.0.1.0.0"]
    assert account_of(plain_redis, keyspace, "1.0.1.1")["granted"] == 0
    assert account_of(plain_redis, keyspace, "1.1") | {"granted": 100, "reserved": 100} == account_of(
        plain_redis, keyspace, "1.1"
    )
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 200})


async def test_a_stuck_inner_split_waits_while_the_tree_above_it_runs(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [0, 100], 200)
    inner = [
        a_dispatch(f"1.0.1.{index}.0", estimate="tokens=150", chain=f"1.0.1.{index} 1.0 root") for index in range(2)
    ]
    split = Split("1.0.1", ("1.0", "root"), "tokens", share_evenly(100, 2))
    await advance_run(scripts, await load_run(scripts), *inner, splits=(split,))
    claim = new_claim("1.1.0")
    await scripts.reserve(claim, POOL)
    assert isinstance(await reserve(scripts, "1.0.1.0.0"), Blocked)
    assert isinstance(await reserve(scripts, "1.0.1.1.0"), Blocked)
    assert await events(scripts, EventKind.REFUSED, EventKind.UNBLOCKED) == []

    await commit_claim(scripts, claim, {"tokens": 20})
    await end_branch(scripts, "1.1")

    assert await woken_paths(scripts) == ["1.0.1.0.0"]
    assert account_of(plain_redis, keyspace, "1.0.1.0")["reserved"] == 150
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 200})


async def test_what_is_pooled_further_up_in_the_same_script_counts_for_those_below(scripts: Scripts) -> None:
    """The last thread that stops is an inner one: 1.0 is pooled, which is not enough, and then the whole run, which is."""
    await split_run(scripts, [0, 300], 200)
    inner = [
        a_dispatch(f"1.0.1.{index}.0", estimate="tokens=150", chain=f"1.0.1.{index} 1.0 root") for index in range(2)
    ]
    split = Split("1.0.1", ("1.0", "root"), "tokens", share_evenly(100, 2))
    await advance_run(scripts, await load_run(scripts), *inner, splits=(split,))
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)
    assert isinstance(await reserve(scripts, "1.0.1.1.0"), Blocked)

    assert isinstance(await reserve(scripts, "1.0.1.0.0"), Blocked)  # and woken in the same script

    assert await woken_paths(scripts) == ["1.0.1.0.0"]


async def test_who_lacks_less_since_an_inner_branch_gave_back_goes_on_with_less_from_above(scripts: Scripts) -> None:
    """It lacked 70 of the run's; 40 came free within 1.0, so that what 1.1 then gives back, 40, is enough."""
    await split_run(scripts, [0, 60, 0], 300)
    inner = [
        a_dispatch(f"1.0.1.{index}.0", estimate=f"tokens={ask}", chain=f"1.0.1.{index} 1.0 root")
        for index, ask in enumerate((120, 50))
    ]
    split = Split("1.0.1", ("1.0", "root"), "tokens", share_evenly(100, 2))
    await advance_run(scripts, await load_run(scripts), *inner, splits=(split,))
    sibling, other = new_claim("1.0.1.1.0"), new_claim("1.1.0")
    for claim in (sibling, other):
        assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    assert isinstance(await reserve(scripts, "1.0.1.0.0"), Blocked)

    await commit_claim(scripts, sibling, {"tokens": 10})
    ends = (BranchEnd(("1.0.1.1", "1.0", "root")),)
    await advance_run(scripts, await load_run(scripts), ends=ends)
    await commit_claim(scripts, other, {"tokens": 60})
    assert await woken_paths(scripts) == []
    await end_branch(scripts, "1.1")

    assert await woken_paths(scripts) == ["1.0.1.0.0"]


async def test_who_lacks_less_since_a_late_bill_was_small_goes_on_with_less_from_above(scripts: Scripts) -> None:
    """It lacked 50 beyond its own account; the bill of its lost attempt leaves 35 there, so that 20 from 1.1 are enough."""
    await split_run(scripts, [40, 30, 0], 150)
    lost, other = new_claim("1.0.0"), new_claim("1.1.0")
    for claim in (lost, other):
        assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    await scripts.register("incarnations", "w1", -1, 0)
    await scripts.lose(lost, POOL, "died", {})
    await scripts.register("incarnations", "w1", 600_000, 0)
    again = replace(a_dispatch("1.0.0", estimate="tokens=60", chain="1.0 root"), attempt=2)
    await advance_run(scripts, await load_run(scripts), again)
    assert isinstance(await scripts.reserve(new_claim("1.0.0", 2), POOL), Blocked)

    await commit_claim(scripts, lost, {"tokens": 5})
    await commit_claim(scripts, other, {"tokens": 30})
    assert await woken_paths(scripts) == []
    await end_branch(scripts, "1.1")

    assert await woken_paths(scripts) == ["1.0.0"]


async def test_waiting_for_a_time_counts_as_not_running_and_ends_with_its_publication(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 60], 100)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    await reserve(scripts, "1.1.0")
    await commit_claim(scripts, claim, {"tokens": 5})

    retry = Dispatch("1.0.0", 2, "q", "m:f", "l", delay_ms=60_000)
    await advance_run(scripts, await load_run(scripts), retry)

    assert await woken_paths(scripts) == ["1.1.0"]
    assert await scripts.redispatch("r1 1.0.0 2 q", 0, 2000)
    woken = new_claim("1.1.0")
    await scripts.reserve(woken, POOL)
    assert isinstance(await scripts.reserve(new_claim("1.0.0", 2), POOL), Blocked)  # the other runs
    await commit_claim(scripts, woken, {"tokens": 60})
    await end_branch(scripts, "1.1")
    assert [event.fields["free"] for event in await events(scripts, EventKind.REFUSED)] == ["35"]


async def test_nobody_is_refused_while_branches_are_still_being_opened(scripts: Scripts) -> None:
    await split_run(scripts, [120, 0], 100, opening=True)

    assert isinstance(await reserve(scripts, "1.0.0"), Blocked)
    await end_branch(scripts, "1.1")

    assert [event.fields["free"] for event in await events(scripts, EventKind.REFUSED)] == ["100"]


async def test_what_is_opened_last_finds_the_others_stuck(scripts: Scripts) -> None:
    await create_run(scripts, limits={"tokens": 100})
    await scripts.register("incarnations", "w1", 600_000, 0)
    split, step = (
        Split("1", ("root",), "tokens", share_evenly(100, 2)),
        a_dispatch("1.0.0", estimate="tokens=60", chain="1.0 root"),
    )
    await advance_run(scripts, await load_run(scripts), step, splits=(split,), opening=True)
    assert isinstance(await reserve(scripts, "1.0.0"), Blocked)

    assert isinstance(await advance_run(scripts, await load_run(scripts)), Advanced)

    assert isinstance(await reserve(scripts, "1.0.0"), Reserved)


async def passed_over(scripts: Scripts) -> tuple[list[Claim], str]:
    """Branches took five more than their share, which others had left, while the last branch waited for 300.

    Returns:
        Who got it, until nobody did any more, and the one that waited.
    """
    small, lucky = 42, []
    await split_run(scripts, [*[15] * small, 300], 10 * (small + 1))
    last = f"1.{small}.0"
    holder = new_claim("1.1.0")
    await end_branch(scripts, "1.0")
    assert isinstance(await scripts.reserve(holder, POOL), Reserved)
    assert isinstance(await reserve(scripts, last), Blocked)
    for index in range(2, small, 2):
        await end_branch(scripts, f"1.{index}")
        claim = new_claim(f"1.{index + 1}.0")
        if isinstance(await scripts.reserve(claim, POOL), Reserved):
            lucky.append(claim)
    return [holder, *lucky], last


async def test_a_waiter_is_passed_over_sixteen_times_at_the_most(scripts: Scripts) -> None:
    lucky, _ = await passed_over(scripts)

    assert len(lucky) == 1 + 16


async def test_who_was_passed_over_too_often_goes_on_before_lower_paths(scripts: Scripts) -> None:
    lucky, last = await passed_over(scripts)
    assert await events(scripts, EventKind.UNBLOCKED) == []

    for claim in lucky:
        await commit_claim(scripts, claim, {"tokens": 0})
        await end_branch(scripts, claim.path.removesuffix(".0"))
        if await events(scripts, EventKind.UNBLOCKED):
            break

    assert (await woken_paths(scripts))[0] == last


async def test_what_was_kept_for_who_was_passed_over_is_for_others_once_its_own_account_pays(scripts: Scripts) -> None:
    """The last branch has what it waits for in a lost attempt of its own, whose bill turns out to be nothing."""
    small = 42
    last, lost = f"1.{small}.0", new_claim(f"1.{small}.0")
    await split_run(scripts, [*[15] * small, 300], 10 * small + 300, weights=[*[1] * small, 30])
    assert isinstance(await scripts.reserve(lost, POOL), Reserved)
    await scripts.register("incarnations", "w1", -1, 0)
    await scripts.lose(lost, POOL, "died", {})
    await scripts.register("incarnations", "w1", 600_000, 0)
    await advance_run(scripts, await load_run(scripts), Dispatch(last, 2, "q", "m:f", "l"))
    assert isinstance(await scripts.reserve(new_claim(last, 2), POOL), Blocked)
    answers: dict[str, object] = {}
    for index in range(0, small, 2):
        await end_branch(scripts, f"1.{index}")
        answers[f"1.{index + 1}.0"] = await reserve(scripts, f"1.{index + 1}.0")
    kept_from = [path for path, answer in answers.items() if isinstance(answer, Blocked)]
    assert kept_from

    await commit_claim(scripts, lost, {"tokens": 0})

    assert await woken_paths(scripts) == [last, *kept_from]


async def test_a_strict_share_is_all_that_a_branch_gets(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [10, 60], 100, strict=True)
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)

    assert await reserve(scripts, "1.1.0") == Refusal("1.1", "tokens", 60, 50)

    assert await commit_claim(scripts, claim, {"tokens": 60}) == Committed({"tokens": 10})
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 100})


@pytest.mark.parametrize("cancelled", [True, False])
async def test_the_end_of_a_run_frees_what_was_reserved_ahead_and_forgets_who_waits(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, cancelled: bool
) -> None:
    await split_run(scripts, [60, 70, 90], 120)
    for path in ("1.2.0", "1.1.0", "1.0.0"):
        await reserve(scripts, path)
    assert account_of(plain_redis, keyspace, "1.0")["reserved"] == 60

    if cancelled:
        await scripts.cancel("r1", POOL, "enough")
    status = "cancelled" if cancelled else "failed"
    assert isinstance(await advance_run(scripts, await load_run(scripts), status=status), Advanced)

    assert sum(row.reserved for row in accounts_of(plain_redis, keyspace)) == 0
    assert not plain_redis.exists(keyspace.run("r1").waiters)
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 120})


async def test_no_more_than_128_are_reserved_ahead_and_the_rest_follow_as_they_start(scripts: Scripts) -> None:
    count = 130
    await split_run(scripts, [200, *[201] * count], 200 * (count + 1))
    claim = new_claim("1.0.0")
    await scripts.reserve(claim, POOL)
    for index in range(1, count + 1):
        assert isinstance(await reserve(scripts, f"1.{index}.0"), Blocked)
    await commit_claim(scripts, claim, {"tokens": 0})
    await end_branch(scripts, "1.0")
    assert await woken_paths(scripts) == [f"1.{index}.0" for index in range(1, 129)]

    for index in range(1, 3):
        assert isinstance(await reserve(scripts, f"1.{index}.0"), Reserved)

    assert await woken_paths(scripts) == [f"1.{index}.0" for index in range(1, count + 1)]


async def test_a_step_limit_is_a_limit_and_no_share(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    """`1~tokens=50`: the account of a step with limits of its own takes what it needs and keeps nothing free."""
    await create_run(scripts, limits={"tokens": 100})
    await scripts.register("incarnations", "w1", 600_000, 0)
    chain = "1~tokens=50,searches=3 root"
    step = a_dispatch("1", estimate="tokens=30 searches=2", chain=chain)
    await advance_run(
        scripts, await load_run(scripts), step, a_dispatch("2", estimate="tokens=51", chain="2~tokens=50 root")
    )
    claim = new_claim("1")

    answer = await scripts.reserve(claim, POOL)

    assert isinstance(answer, Reserved)
    assert await scripts.extend(claim, POOL, 1, {"tokens": 21}) == Refusal("1", "tokens", 21, 20)
    assert await scripts.extend(claim, POOL, 2, {"searches": 2}) == Refusal("1", "searches", 2, 1)
    assert await reserve(scripts, "2") == Refusal("2", "tokens", 51, 50)
    assert await commit_claim(scripts, claim, {"tokens": 70, "searches": 1}) == Committed({"tokens": 20})
    rows = {(row.account, row.meter): row for row in accounts_of(plain_redis, keyspace)}
    assert (rows["1", "tokens"].granted, rows["1", "tokens"].spent, rows["root", "tokens"].free) == (50, 50, 50)
    assert (rows["1", "searches"].granted, rows["1", "searches"].free) == (3, 2)


@pytest.mark.parametrize(
    ("on_loss", "follows"),
    [
        ("refund pause", EventKind.UNBLOCKED),
        ("charge pause", EventKind.REFUSED),
        ("refund", None),
        ("charge", None),
    ],
)
async def test_a_step_whose_worker_died_runs_only_for_its_siblings_budget_if_it_is_run_again_by_itself(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, on_loss: str, follows: EventKind | None
) -> None:
    """A dead letter that waits for somebody may wait for ever: whoever is blocked beside it is paid or refused at once."""
    await split_run(scripts, [50, 60], 100)
    again = replace(a_dispatch("1.0.0", 2, "tokens=50", "1.0 root", on_loss), task=b"{}")
    assert isinstance(await advance_run(scripts, await load_run(scripts), again), Advanced)
    claim = replace(new_claim("1.0.0"), attempt=2)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    assert await scripts.lose(claim, POOL, "died", {})

    told = await events(scripts, EventKind.UNBLOCKED, EventKind.REFUSED)
    assert [(event.kind, event.path) for event in told] == ([(follows, "1.1.0")] if follows else [])
    if follows is EventKind.UNBLOCKED:
        third = a_dispatch("1.0.0", 3, "tokens=50", "1.0 root", on_loss)
        assert isinstance(await advance_run(scripts, await load_run(scripts), third), Advanced)
        assert not plain_redis.hexists(keyspace.run("r1").accounts, "rest|1.0.0"), (
            "it runs again once somebody has said so"
        )
