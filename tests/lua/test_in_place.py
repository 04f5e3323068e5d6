"""Running steps that ask for more than their account has: they wait in their place, and are refused what nobody could pay."""

from __future__ import annotations

import pytest
import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import Blocked, Claim, Committed, Dispatch, Refusal, Reserved
from flujo_client.protocol.scripts import Scripts
from tests.conftest import dump
from tests.lua.runs import account_of, accounts_of, advance_run, check_accounts, commit_claim, load_run, new_claim
from tests.lua.test_waiting import end_branch, reserve, split_run, woken_paths

#: After so long in its place a step draws on what running siblings have free; see _in_place.lua.
PATIENCE_MS = 10_000


async def running(scripts: Scripts, path: str) -> Claim:
    """A claim that holds the path's attempt."""
    claim = new_claim(path)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    return claim


async def test_a_running_step_waits_in_its_place_for_what_a_sibling_gives_back(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 50], 100)
    first, second = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")

    waits = await scripts.extend(first, POOL, 1, {"tokens": 10})
    before = dump(plain_redis, keyspace)
    assert waits == await scripts.extend(first, POOL, 1, {"tokens": 10}, 250) == Blocked("1.0", "tokens", 10, 0)
    assert dump(plain_redis, keyspace) == before
    await commit_claim(scripts, second, {"tokens": 40})
    await end_branch(scripts, "1.1")
    assert await scripts.extend(first, POOL, 1, {"tokens": 10}, 500) is None
    assert account_of(plain_redis, keyspace, "1.0")["reserved"] == 60


async def test_where_nothing_else_runs_it_draws_on_what_blocked_siblings_have_free(scripts: Scripts) -> None:
    await split_run(scripts, [30, 60], 100)
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)
    claim = await running(scripts, "1.0.0")

    assert await scripts.extend(claim, POOL, 1, {"tokens": 40}) is None

    assert await commit_claim(scripts, claim, {"tokens": 70}) == Committed({})


async def test_a_waiter_goes_on_when_the_last_that_ran_waits_in_its_place(scripts: Scripts) -> None:
    """1.0 comes before 1.1 in declared order, so it draws on what both have free; 1.1 has to wait for what that leaves."""
    await split_run(scripts, [60, 30], 100)
    assert isinstance(await reserve(scripts, "1.0.0"), Blocked)
    claim = await running(scripts, "1.1.0")

    assert await scripts.extend(claim, POOL, 1, {"tokens": 30}) == Blocked("1.1", "tokens", 30, 20)

    assert await woken_paths(scripts) == ["1.0.0"]


async def test_only_what_the_whole_tree_cannot_pay_is_refused_to_a_running_step(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [30, 90], 100)
    assert isinstance(await reserve(scripts, "1.1.0"), Blocked)
    claim = await running(scripts, "1.0.0")

    refused = await scripts.extend(claim, POOL, 1, {"tokens": 71})

    assert refused == Refusal("1.0", "tokens", 71, 70)
    before = dump(plain_redis, keyspace)
    assert await scripts.extend(claim, POOL, 1, {"tokens": 71}) == refused
    assert dump(plain_redis, keyspace) == before
    assert await scripts.extend(claim, POOL, 2, {"tokens": 70}) is None


async def test_after_ten_seconds_it_draws_on_what_running_siblings_have_free(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    """They may wait for its worker."""
    await split_run(scripts, [30, 20], 100)
    first, second = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")
    assert isinstance(await scripts.extend(first, POOL, 1, {"tokens": 50}, PATIENCE_MS - 1), Blocked)

    assert await scripts.extend(first, POOL, 1, {"tokens": 50}, PATIENCE_MS) is None
    assert await scripts.extend(second, POOL, 1, {"tokens": 1}, PATIENCE_MS) == Refusal("1.1", "tokens", 1, 0)
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 100})


async def test_running_steps_that_ask_for_more_pass_a_waiter_sixteen_times_at_the_most(scripts: Scripts) -> None:
    """Attempts that need nothing to start ask for more than their share again and again, while a sibling waits for 300."""
    await split_run(scripts, [0, 0, 0, 300], 400)
    claim, holder = await running(scripts, "1.1.0"), await running(scripts, "1.2.0")
    assert await scripts.extend(claim, POOL, 1, {"tokens": 100}) is None
    assert isinstance(await reserve(scripts, "1.3.0"), Blocked)
    await end_branch(scripts, "1.0")

    answers = [await scripts.extend(claim, POOL, 2 + number, {"tokens": 1}) for number in range(17)]

    assert answers == [None] * 16 + [Blocked("1.1", "tokens", 1, 84)]
    for path in ("1.2", "1.1"):
        await commit_claim(scripts, {"1.1": claim, "1.2": holder}[path], {"tokens": 0})
        assert await woken_paths(scripts) == []
        await end_branch(scripts, path)
    assert await woken_paths(scripts) == ["1.3.0"]


@pytest.mark.parametrize("how", ["committed", "lost", "withdrawn", "cancelled"])
async def test_what_waits_in_its_place_waits_no_more_once_its_attempt_is_over(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, how: str
) -> None:
    await split_run(scripts, [50, 50], 100)
    first, second = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")
    assert isinstance(await scripts.extend(first, POOL, 1, {"tokens": 10}), Blocked)

    if how == "withdrawn":
        assert await scripts.extend(first, POOL, 2, {}) is None
    elif how == "lost":
        assert await scripts.lose(first, POOL, "handed_over", {"tokens": 5})
    elif how == "cancelled":
        await scripts.cancel("r1", POOL, "enough")
        assert await scripts.extend(first, POOL, 1, {"tokens": 10}) == Refusal("1.0", "tokens", 10, 0)
    if how in ("committed", "cancelled"):
        await commit_claim(scripts, first, {"tokens": 5})

    assert not plain_redis.exists(keyspace.run("r1").waiters)
    assert plain_redis.hget(keyspace.run("r1").accounts, "life|1.0") == b"1 0 open"
    await commit_claim(scripts, second, {"tokens": 0})
    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 100})


async def test_a_step_that_pauses_after_it_has_waited_in_its_place_does_not_run(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 50], 100)
    first, _ = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")
    assert isinstance(await scripts.extend(first, POOL, 1, {"tokens": 10}), Blocked)

    await commit_claim(scripts, first, {"tokens": 5}, kind="paused")

    assert plain_redis.hget(keyspace.run("r1").accounts, "life|1.0") == b"0 0 open"
    await advance_run(scripts, await load_run(scripts), Dispatch("1.0.0", 2, "q", "m:f", "l"))
    assert plain_redis.hget(keyspace.run("r1").accounts, "life|1.0") == b"1 0 open"


async def test_what_was_used_without_an_estimate_is_paid_from_what_siblings_have_free_and_else_is_overrun(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [0, 30, 0], 120)
    first, _ = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")

    assert await commit_claim(scripts, first, {"tokens": 91}) == Committed({"tokens": 1})

    check_accounts(accounts_of(plain_redis, keyspace), {"tokens": 120})


async def test_an_older_request_that_comes_again_leaves_the_newer_one_in_its_place(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await split_run(scripts, [50, 50], 100)
    first, _ = await running(scripts, "1.0.0"), await running(scripts, "1.1.0")
    assert isinstance(await scripts.extend(first, POOL, 1, {"tokens": 20}, PATIENCE_MS), Refusal)
    assert isinstance(await scripts.extend(first, POOL, 2, {"tokens": 10}), Blocked)
    before = dump(plain_redis, keyspace)

    assert isinstance(await scripts.extend(first, POOL, 1, {"tokens": 20}, PATIENCE_MS), Refusal)

    assert dump(plain_redis, keyspace) == before
