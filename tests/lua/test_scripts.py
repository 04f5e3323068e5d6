"""The scripts on a real Redis: what they do, what they refuse without a trace, and what they answer a second time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import Share
from flujo_client.protocol.replies import (
    Advanced,
    BranchEnd,
    Committed,
    Dispatch,
    Duplicate,
    Emission,
    Forbidden,
    LeaseLost,
    Overtaken,
    Refusal,
    Reserved,
    RunInactive,
    Split,
    SplitStale,
    WorkerDead,
)
from flujo_client.protocol.scripts import LATE_MS, Scripts
from tests.conftest import dump, leaked_keys
from tests.lua.runs import (
    a_dispatch,
    account_of,
    accounts_of,
    advance_run,
    commit_claim,
    create_run,
    load_run,
    new_claim,
    started_run,
    sweep_page,
)


async def test_create_twice_gives_the_stored_run(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    assert await create_run(scripts) is None
    before = dump(plain_redis, keyspace)

    assert await create_run(scripts) == "running"
    assert await create_run(scripts, fingerprint="other") == "conflict"
    assert dump(plain_redis, keyspace) == before


async def test_reserve_leases_the_attempt_and_books_its_estimate(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})

    answer = await scripts.reserve(new_claim(), POOL)

    assert isinstance(answer, Reserved)
    assert answer.payloads == [b"j1"]
    assert answer.remaining == {"tokens": 70}
    assert account_of(plain_redis, keyspace)["reserved"] == 30
    assert plain_redis.zcard(keyspace.shard("dispatches")) == 0


async def test_reserve_again_with_the_same_nonce_answers_the_same(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    first = await scripts.reserve(claim, POOL)
    before = dump(plain_redis, keyspace)

    assert await scripts.reserve(claim, POOL) == first
    assert dump(plain_redis, keyspace) == before


async def test_reserve_refuses_without_a_trace(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0"))
    before = dump(plain_redis, keyspace)

    assert await scripts.reserve(new_claim(attempt=2), POOL) == Duplicate()
    assert await scripts.reserve(new_claim(incarnation="stranger"), POOL) == WorkerDead()
    assert await scripts.reserve(replace(new_claim(), run_id="unknown"), POOL) == RunInactive("unknown")
    assert dump(plain_redis, keyspace) == before


async def test_two_workers_race_for_an_attempt_and_one_gets_it(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))

    answers = await asyncio.gather(*(scripts.reserve(new_claim(), POOL) for _ in range(20)))

    assert sum(isinstance(answer, Reserved) for answer in answers) == 1
    assert sum(isinstance(answer, Duplicate) for answer in answers) == 19


async def test_reserve_refuses_what_the_budget_cannot_pay(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=101"), limits={"tokens": 100})
    claim = new_claim()

    refused = await scripts.reserve(claim, POOL)

    assert refused == Refusal("root", "tokens", 101, 100)
    assert await scripts.reserve(claim, POOL) == refused
    assert account_of(plain_redis, keyspace)["reserved"] == 0
    assert (await load_run(scripts)).events[-1].fields["asked"] == "101"


async def test_commit_settles_and_refunds(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await commit_claim(scripts, claim, {"tokens": 10}) == Committed({})

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"]) == (0, 10)
    assert (await load_run(scripts)).events[-1].kind == "succeeded"


async def test_commit_twice_charges_once(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    await commit_claim(scripts, claim, {"tokens": 10})
    before = dump(plain_redis, keyspace)

    assert await commit_claim(scripts, claim, {"tokens": 10}) == Committed({})
    assert await commit_claim(scripts, new_claim(), {"tokens": 10}) == LeaseLost()
    assert dump(plain_redis, keyspace) == before


async def test_what_no_account_covers_is_overrun(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await commit_claim(scripts, claim, {"tokens": 130}) == Committed({"tokens": 30})

    account = account_of(plain_redis, keyspace)
    assert (account["spent"], account["overrun"], account["granted"]) == (100, 30, 100)


async def test_a_lost_attempt_stays_charged_until_its_late_bill_comes_once(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    assert await scripts.lose(claim, POOL, "died", {})
    assert account_of(plain_redis, keyspace)["unknown"] == 30
    assert not await scripts.lose(claim, POOL, "died", {})

    assert await commit_claim(scripts, claim, {"tokens": 12}) == LeaseLost()
    assert await commit_claim(scripts, claim, {"tokens": 12}) == LeaseLost()
    account = account_of(plain_redis, keyspace)
    assert (account["unknown"], account["spent"]) == (0, 12)


async def test_eighty_percent_of_a_limit_are_told_once_whoever_brings_the_bill(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    """Of committed, handed over and late bills; other meters, and what comes after it, tell nothing."""
    dispatches = [a_dispatch(str(number), estimate="tokens=20") for number in range(4)]
    await started_run(scripts, *dispatches, limits={"tokens": 101, "searches": 1000})
    committed, handed_over, lost, last = [new_claim(str(number)) for number in range(4)]
    for claim in (committed, handed_over, lost, last):
        await scripts.reserve(claim, POOL)

    async def warnings() -> list[tuple[str, str]]:
        loaded = await load_run(scripts)
        return [(event.path, event.fields["used"]) for event in loaded.events if event.kind == "limit_warning"]

    await commit_claim(scripts, committed, {"tokens": 60, "searches": 9})
    await scripts.lose(handed_over, POOL, "handed_over", {"tokens": 20})
    assert await warnings() == []  # 80 of 101
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    await scripts.lose(lost, POOL, "died", {})
    assert await commit_claim(scripts, lost, {"tokens": 1}) == LeaseLost()
    assert await commit_claim(scripts, lost, {"tokens": 1}) == LeaseLost()
    await commit_claim(scripts, last, {"tokens": 4})

    assert await warnings() == [("2", "81")]


async def test_a_living_worker_cannot_be_declared_dead(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    before = dump(plain_redis, keyspace)

    assert not await scripts.lose(claim, POOL, "died", {})
    assert not await scripts.lose(claim, POOL, "overdue", {})
    assert dump(plain_redis, keyspace) == before


async def test_extend_adds_once_per_counter(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.extend(claim, POOL, 1, {"tokens": 20}) is None
    assert await scripts.extend(claim, POOL, 1, {"tokens": 20}) is None
    assert account_of(plain_redis, keyspace)["reserved"] == 50
    before = accounts_of(plain_redis, keyspace)
    assert await scripts.extend(claim, POOL, 2, {"tokens": 51}) == Refusal("root", "tokens", 51, 50)
    assert await scripts.extend(new_claim(), POOL, 1, {"tokens": 1}) == LeaseLost()
    assert accounts_of(plain_redis, keyspace) == before


async def test_amounts_up_to_two_to_the_53_survive_exactly(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    most = 2**53 - 1
    await started_run(scripts, a_dispatch("0", estimate=f"cost_nanousd={most}"), limits={"cost_nanousd": most})
    claim = new_claim()

    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    assert await commit_claim(scripts, claim, {"cost_nanousd": most - 1}) == Committed({})

    account = account_of(plain_redis, keyspace, meter="cost_nanousd")
    assert account["spent"] == most - 1


async def test_branches_get_shares_draw_on_what_siblings_left_and_give_back(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    split = Split("1", ("root",), "tokens", Share(101, 2, 50, 1))
    await create_run(scripts, limits={"tokens": 101})
    await scripts.register("incarnations", "w1", 60_000, 0)
    loaded = await load_run(scripts)
    await advance_run(
        scripts,
        loaded,
        a_dispatch("1.0.0", estimate="tokens=20", chain="1.0 root"),
        a_dispatch("1.1.0", estimate="tokens=70", chain="1.1 root"),
        splits=(split,),
    )
    first, second = new_claim("1.0.0"), new_claim("1.1.0")
    assert isinstance(await scripts.reserve(first, POOL), Reserved)
    assert account_of(plain_redis, keyspace, "1.0")["granted"] == 51
    await commit_claim(scripts, first, {"tokens": 15})

    await advance_run(scripts, await load_run(scripts), ends=(BranchEnd(("1.0", "root")),))
    assert account_of(plain_redis, keyspace, "1.0")["granted"] == 15
    assert account_of(plain_redis, keyspace)["children"] == 65

    assert isinstance(await scripts.reserve(second, POOL), Reserved)
    assert account_of(plain_redis, keyspace, "1.1")["granted"] == 70
    assert account_of(plain_redis, keyspace)["children"] == 85


async def test_advance_is_compare_and_set(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await create_run(scripts)
    loaded = await load_run(scripts)
    first = await advance_run(scripts, loaded, a_dispatch("0"), operation="op")
    before = dump(plain_redis, keyspace)

    assert await advance_run(scripts, loaded, a_dispatch("0"), operation="other") == Overtaken()
    again = await advance_run(scripts, loaded, a_dispatch("0"), operation="op")

    assert isinstance(first, Advanced)
    assert isinstance(again, Advanced)
    assert again.revision == first.revision
    assert dump(plain_redis, keyspace) == before


async def test_a_stale_split_is_refused_whole(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await create_run(scripts, limits={"tokens": 100})
    loaded = await load_run(scripts)
    before = dump(plain_redis, keyspace)

    answer = await advance_run(
        scripts, loaded, a_dispatch("1.0.0"), splits=(Split("1", ("root",), "tokens", Share(99, 2, 50, 0)),)
    )

    assert answer == SplitStale("1")
    assert dump(plain_redis, keyspace) == before


async def test_after_cancel_nothing_starts_and_a_running_step_is_settled_but_discarded(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), a_dispatch("1"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.cancel("r1", POOL, "enough") is None
    assert await scripts.cancel("r1", POOL, "enough") is None
    assert isinstance(await scripts.reserve(new_claim("1"), POOL), RunInactive)
    assert isinstance(await commit_claim(scripts, claim, {"tokens": 10}), RunInactive)

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"]) == (0, 10)
    assert not plain_redis.hexists(keyspace.run("r1").payloads, "out:0")
    assert await advance_run(scripts, await load_run(scripts), status="completed") == Forbidden("cancelled")
    assert isinstance(await advance_run(scripts, await load_run(scripts), status="cancelled"), Advanced)
    assert await scripts.cancel("r1", POOL, "late") == "cancelled"
    assert await scripts.cancel("unknown", POOL, "") == "unknown"


async def test_the_attempts_of_a_finished_run_go_when_none_can_report_any_more(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await create_run(scripts)
    await advance_run(scripts, await load_run(scripts), a_dispatch("0"))
    await advance_run(scripts, await load_run(scripts), status="failed")
    await scripts.finish("r1", POOL, b"{}", 30 * 86_400_000)

    keys = keyspace.run("r1")
    assert 0 < plain_redis.ttl(keys.attempts) <= LATE_MS // 1000
    assert plain_redis.ttl(keys.payloads) > 29 * 86_400
    assert plain_redis.zscore(keyspace.shard("unarchived"), "r1") is not None


async def test_a_finished_run_leaves_nothing_without_a_ttl(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    await commit_claim(scripts, claim)
    await advance_run(scripts, await load_run(scripts), status="completed")

    assert await scripts.finish("r1", POOL, b"{}", 60_000)
    assert not await scripts.finish("r1", POOL, b"{}", 60_000)

    assert leaked_keys(plain_redis, keyspace) == []
    for name in ("dirty", "active", "dispatches"):
        assert plain_redis.zcard(keyspace.shard(name)) == 0
    assert plain_redis.hlen(keyspace.shard("published")) == 0


async def test_finish_refuses_a_run_that_has_not_ended(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await create_run(scripts)
    before = dump(plain_redis, keyspace)

    assert not await scripts.finish("r1", POOL, b"{}", 60_000)
    assert dump(plain_redis, keyspace) == before


async def test_renew_reports_leases_and_whom_to_cancel(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    await scripts.cancel("r1", POOL, "")

    renewal = await scripts.renew("w1", 2500, 0)

    assert not isinstance(renewal, WorkerDead)
    assert renewal.held == renewal.cancelled == frozenset({claim.member})
    assert await scripts.renew("nobody", 2500, 0) == WorkerDead()


async def test_after_a_gap_the_sweep_judges_nobody(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    first = await sweep_page(scripts, gap_ms=2000)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    second = await sweep_page(scripts)

    assert first is not None
    assert first.dead_incarnations == []
    assert second is not None
    assert second.dead_incarnations == ["w1"]
    assert await sweep_page(scripts, period_ms=60_000) is None


async def test_a_manager_that_is_mending_is_seen_and_judges_nobody(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    plain_redis.hset(keyspace.shard("sweep"), mapping={"at": 1, "seen": 1})
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    assert await sweep_page(scripts, gap_ms=60_000, most=0) is None

    assert plain_redis.zscore(keyspace.shard("managers"), "m") is not None
    assert plain_redis.hget(keyspace.shard("sweep"), "at") == b"1", "the period is left to others"
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    page = await sweep_page(scripts, gap_ms=60_000)
    assert page is not None
    assert page.dead_incarnations == ["w1"], "no gap: the manager was seen while it mended"


async def test_runs_that_nobody_can_advance_hide_no_others_from_the_sweep(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for number in range(5):
        await create_run(scripts, f"r{number}")
    plain_redis.zadd(keyspace.shard("dirty"), {f"r{number}": number + 1 for number in range(5)})

    pages = [await sweep_page(scripts, most=2) for _ in range(3)]

    assert [page.stale_runs for page in pages if page is not None] == [["r0", "r1"], ["r2", "r3"], ["r4"]]


async def test_one_of_two_sweeps_publishes_a_dispatch_again(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))

    answers = await asyncio.gather(*(scripts.redispatch("r1 0 1 q", 1, 3000) for _ in range(5)))

    assert sum(answer is not None for answer in answers) == 1
    assert not await scripts.redispatch("r1 9 1 q", 1, 3000)


async def test_a_back_off_is_noted_unless_something_has_become_of_the_dispatch(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    member = "r1 0 1 q"
    store: Any = plain_redis
    taken_ms = await scripts.redispatch(member, 1, 1000)
    assert taken_ms is not None
    later_ms = taken_ms + 60_000

    assert await scripts.look_later(member, taken_ms, 2, later_ms)
    assert store.zscore(keyspace.shard("dispatches"), member) == later_ms

    await scripts.decline(member, "0", 1, "step", 700)
    assert not await scripts.look_later(member, taken_ms, 2, later_ms)
    assert store.zscore(keyspace.shard("dispatches"), member) < later_ms

    await scripts.reserve(new_claim(), POOL)
    assert not await scripts.look_later(member, taken_ms, 2, later_ms)
    assert store.zscore(keyspace.shard("dispatches"), member) is None


async def test_a_step_that_is_not_here_comes_back_with_growing_delay(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))

    delays = [await scripts.decline("r1 0 1 q", "0", 1, "step", 700) for _ in range(4)]

    assert delays == [200, 400, 700, 700]
    assert await scripts.decline("r1 0 2 q", "0", 2, "step", 700) is None
    assert isinstance(await scripts.reserve(new_claim(), POOL), Reserved)


async def test_a_run_is_adopted_once_and_only_from_the_dead(scripts: Scripts) -> None:
    await create_run(scripts)
    await scripts.register("managers", POOL, 60_000, 0)
    assert not await scripts.adopt("r1", POOL, "m2")

    await scripts.register("managers", POOL, -1000, 0)
    answers = await asyncio.gather(*(scripts.adopt("r1", POOL, f"m{number}") for number in range(3)))

    assert sum(answers) == 1


async def test_a_chunk_is_appended_once_and_only_under_a_held_claim(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.emit(claim, 1, b"jx", 1000) is Emission.APPENDED
    assert await scripts.emit(claim, 1, b"jx", 1000) is Emission.APPENDED
    assert await scripts.emit(new_claim(), 1, b"jx", 1000) is Emission.LOST
    assert (await load_run(scripts)).events == []  # chunks are for followers, not for managers


async def test_payloads_are_stashed_by_number_while_the_claim_is_held(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.stash(claim, "out:0!items", 9, [b"j9", b"j10"])

    stored = plain_redis.hmget(keyspace.run("r1").payloads, ["out:0!items.9", "out:0!items.10"])
    assert stored == [b"j9", b"j10"]


async def test_a_name_moves_only_to_a_new_spec(scripts: Scripts) -> None:
    assert await scripts.publish_spec("p", "one", b"{}")
    assert await scripts.publish_spec("p", "two", b"{}")

    assert not await scripts.publish_spec("p", "one", b"{}")
    assert await scripts.publish_spec("p", "two", b"{}")


async def test_a_step_may_read_any_number_of_payloads(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    names = [f"out:{number}" for number in range(10_001)]
    wide = Dispatch("0", 1, "q", "m:f", "l", terms=f"60000;charge;root;;{' '.join(names)}", task=b"{}")
    await started_run(scripts, wide)
    plain_redis.hset(keyspace.run("r1").payloads, mapping={name: f"j{name}" for name in names[1:]})

    reserved = await scripts.reserve(new_claim(), POOL)

    assert isinstance(reserved, Reserved)
    assert reserved.payloads == [b"", *(f"j{name}".encode() for name in names[1:])]
