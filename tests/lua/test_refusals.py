"""Every refusal of every script leaves every key as it was; and the refusals that clean up, clean up that and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis

from flujo_client.protocol.errors import SchemaMismatchError, ScriptRefusedError, StateUnavailableError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import Share
from flujo_client.protocol.replies import (
    Advanced,
    Claim,
    Committed,
    Duplicate,
    Emission,
    Forbidden,
    LeaseLost,
    Overtaken,
    Refusal,
    Renewal,
    Reserved,
    RunInactive,
    SpecNotKept,
    Split,
    SplitStale,
    WorkerDead,
)
from flujo_client.protocol.scripts import Scripts
from tests.conftest import ON_REAL_SERVERS, dump
from tests.lua.runs import (
    a_dispatch,
    account_of,
    advance_run,
    commit_claim,
    create_run,
    load_run,
    new_claim,
    started_run,
)


@asynccontextmanager
async def unchanged(client: redis.Redis, keyspace: Keyspace) -> AsyncIterator[None]:
    before = dump(client, keyspace)
    yield
    assert dump(client, keyspace) == before


@contextmanager
def full_memory(client: redis.Redis) -> Any:
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)


async def _held(scripts: Scripts, estimate: str = "tokens=30") -> Claim:
    await started_run(scripts, a_dispatch("0", estimate=estimate), a_dispatch("1"), limits={"tokens": 100})
    claim = new_claim()
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    return claim


#: Of a run whose spec nobody keeps.
TERMS: dict[str, Any] = {"fingerprint": "f", "owner": POOL, "spec_hash": "nothing", "pipeline": "p", "limits": {}}
TERMS |= {"input_payload": b"j1", "context_payload": b"", "traceparent": "", "metadata": b""}

REFUSALS: dict[str, tuple[Callable[[Scripts, Claim], Awaitable[Any]], Any]] = {
    "create_run: the same run": (lambda s, c: create_run(s, limits={"tokens": 100}), "running"),
    "create_run: another run": (lambda s, c: create_run(s, fingerprint="other"), "conflict"),
    "create_run: no spec": (lambda s, c: s.create_run("r2", **TERMS), SpecNotKept()),
    "restore: no spec": (lambda s, c: s.restore("r2", POOL, "nothing", [{"f": b"v"}] * 5, []), SpecNotKept()),
    "retire_specs: a run has it, nothing else is there": (lambda s, c: s.retire_specs(0, 10), 0),
    "refuse_run: a run has the id": (lambda s, c: s.refuse_run("r1", "p", b"{}", b"{}", "", 1000), False),
    "reserve: leased by another": (lambda s, c: s.reserve(new_claim(), POOL), Duplicate()),
    "reserve: another attempt": (lambda s, c: s.reserve(new_claim("1", attempt=2), POOL), Duplicate()),
    "reserve: unknown step": (lambda s, c: s.reserve(new_claim("7"), POOL), Duplicate()),
    "reserve: unknown run": (
        lambda s, c: s.reserve(replace(new_claim(), run_id="nobody"), POOL),
        RunInactive("unknown"),
    ),
    "reserve: dead worker": (lambda s, c: s.reserve(new_claim("1", incarnation="w9"), POOL), WorkerDead()),
    "extend: stranger's claim": (lambda s, c: s.extend(new_claim(), POOL, 1, {"tokens": 1}), LeaseLost()),
    "commit: stranger's claim": (lambda s, c: commit_claim(s, new_claim(), {"tokens": 1}), LeaseLost()),
    "leave: stranger's claim": (lambda s, c: s.leave(new_claim(), {"tokens": 1}), False),
    "lose: the worker lives": (lambda s, c: s.lose(c, POOL, "died", {}), False),
    "lose: not overdue": (lambda s, c: s.lose(c, POOL, "overdue", {}), False),
    "lose: stranger's claim": (lambda s, c: s.lose(new_claim(), POOL, "stranger", {}), False),
    "finish: not ended": (lambda s, c: s.finish("r1", POOL, b"{}", 1000), False),
    "finish: unknown run": (lambda s, c: s.finish("nobody", POOL, b"{}", 1000), False),
    "renew: unknown incarnation": (lambda s, c: s.renew("w9", 1000, 0), WorkerDead()),
    "bury: the worker lives": (lambda s, c: s.bury("incarnations", "w1", 0), False),
    "bury: unknown incarnation": (lambda s, c: s.bury("incarnations", "w9", 0), False),
    "abort: unknown run": (lambda s, c: s.abort("nobody", POOL, ""), "unknown"),
    "cancel: unknown run": (lambda s, c: s.cancel("nobody", POOL, ""), "unknown"),
    "adopt: not the owner": (lambda s, c: s.adopt("r1", "m1", "m2"), False),
    "emit: stranger's claim": (lambda s, c: s.emit(new_claim(), 1, b"jx", 1000), Emission.LOST),
    "stash: stranger's claim": (lambda s, c: s.stash(new_claim(), "out:0!items", 0, [b"j1"]), False),
    "cache_store: nobody's right": (lambda s, c: s.cache_store("k", "r1 0", b"j1", b"", 1000), False),
    "decline: leased": (lambda s, c: s.decline("r1 0 1 q", "0", 1, "s", 500), None),
    "decline: another attempt": (lambda s, c: s.decline("r1 1 2 q", "1", 2, "s", 500), None),
    "redispatch: leased": (lambda s, c: s.redispatch("r1 0 1 q", 1, 1000), None),
    "redispatch: taken": (lambda s, c: s.redispatch("r1 1 1 q", 0, 1000), None),
    "revive: unknown run": (lambda s, c: s.revive("nobody", "0", 1, POOL, "op", "retry"), RunInactive("unknown")),
    "ring: nothing is due": (lambda s, c: s.ring("r1", "0", "expired", POOL), False),
    "resume: unknown run": (lambda s, c: s.resume("nobody", "0", POOL, "op", b"j1"), RunInactive("unknown")),
    "load_run: unknown run": (lambda s, c: s.load_run("nobody", 10), None),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_changes_no_key(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, case: str
) -> None:
    claim = await _held(scripts)
    call, answer = REFUSALS[case]

    async with unchanged(plain_redis, keyspace):
        assert await call(scripts, claim) == answer


REPEATS: dict[str, Callable[[Scripts, Claim], Awaitable[Any]]] = {
    "reserve": lambda s, c: s.reserve(c, POOL),
    "extend": lambda s, c: s.extend(c, POOL, 1, {"tokens": 5}),
    "extend: refused": lambda s, c: s.extend(c, POOL, 1, {"tokens": 71}),
    "commit": lambda s, c: commit_claim(s, c, {"tokens": 5}),
    "commit with overrun": lambda s, c: commit_claim(s, c, {"tokens": 500}),
    "emit": lambda s, c: s.emit(c, 1, b"jx", 1000),
    "stash": lambda s, c: s.stash(c, "out:0!items", 0, [b"j1", b"j2"]),
    "cancel": lambda s, c: s.cancel("r1", POOL, "enough"),
    "abort": lambda s, c: s.abort("r1", POOL, "enough"),
    "revive": lambda s, c: s.revive("r1", "0", 1, POOL, "op", "retry"),
    "resume": lambda s, c: s.resume("r1", "0", POOL, "op", b"j1"),
    "publish_spec": lambda s, c: s.publish_spec("p", "h", b"{}"),
    "keep_spec": lambda s, c: s.keep_spec("r1", "new", b"{}"),
}


@pytest.mark.parametrize("case", REPEATS)
async def test_a_repeated_call_gives_the_same_answer_and_changes_nothing(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, case: str
) -> None:
    claim = await _held(scripts)
    first = await REPEATS[case](scripts, claim)

    async with unchanged(plain_redis, keyspace):
        assert await REPEATS[case](scripts, claim) == first


async def test_a_refused_claim_gets_its_refusal_again_and_another_one_nothing(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=101"), limits={"tokens": 100})
    claim = new_claim()
    refused = await scripts.reserve(claim, POOL)

    async with unchanged(plain_redis, keyspace):
        assert await scripts.reserve(claim, POOL) == refused
        assert await scripts.reserve(new_claim(), POOL) == Duplicate()


async def test_a_committed_claim_is_a_duplicate_when_it_comes_again(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)
    await commit_claim(scripts, claim)

    async with unchanged(plain_redis, keyspace):
        assert await scripts.reserve(claim, POOL) == Duplicate()
        assert await scripts.extend(claim, POOL, 1, {"tokens": 1}) == LeaseLost()
        assert await scripts.emit(claim, 1, b"jx", 1000) is Emission.LOST
        assert not await scripts.lose(claim, POOL, "handed_over", {})


@pytest.mark.parametrize("meters", [("cost_nanousd", "tokens"), ("tokens", "cost_nanousd")])
async def test_where_both_are_short_cost_is_named(scripts: Scripts, meters: tuple[str, str]) -> None:
    estimate = " ".join(f"{meter}=500" for meter in meters)
    await started_run(scripts, a_dispatch("0", estimate=estimate), limits=dict.fromkeys(meters, 100))

    assert await scripts.reserve(new_claim(), POOL) == Refusal("root", "cost_nanousd", 500, 100)


async def test_one_short_meter_reserves_none(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=50 searches=3"), limits={"tokens": 100, "searches": 2})

    assert await scripts.reserve(new_claim(), POOL) == Refusal("root", "searches", 3, 2)

    assert account_of(plain_redis, keyspace)["reserved"] == 0
    assert account_of(plain_redis, keyspace, meter="searches")["reserved"] == 0


async def test_records_of_another_schema_are_refused(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    loaded = await load_run(scripts)
    plain_redis.hset(keyspace.run("r1").run, "schema", "2")

    async with unchanged(plain_redis, keyspace):
        with pytest.raises(SchemaMismatchError, match="written with schema 2"):
            await scripts.reserve(new_claim(), POOL)
        with pytest.raises(SchemaMismatchError, match="Upgrade"):
            await advance_run(scripts, loaded, a_dispatch("1"))


async def test_advance_refuses_without_a_trace(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await create_run(scripts, limits={"tokens": 100})
    stale = await load_run(scripts)
    await advance_run(scripts, stale)
    split = Split("1", ("root",), "tokens", Share(99, 2, 50, 0))

    async with unchanged(plain_redis, keyspace):
        assert await advance_run(scripts, stale, a_dispatch("0")) == Overtaken()
        current = await load_run(scripts)
        assert await advance_run(scripts, current, a_dispatch("0"), splits=(split,)) == SplitStale("1")
        forged = replace(current, record={**current.record, "operation": "of another history"})
        assert await advance_run(scripts, forged, a_dispatch("0")) == Overtaken()


async def test_an_ended_run_advances_no_more(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await create_run(scripts)
    await advance_run(scripts, await load_run(scripts), status="completed")

    async with unchanged(plain_redis, keyspace):
        assert await advance_run(scripts, await load_run(scripts), a_dispatch("0")) == Forbidden("closed")
        assert await scripts.cancel("r1", POOL, "") == "completed"


async def test_what_an_ended_run_never_leased_is_not_published_for_ever(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    await scripts.cancel("r1", POOL, "enough")

    assert not await scripts.redispatch("r1 0 1 q", 1, 1000)

    assert plain_redis.zcard(keyspace.shard("dispatches")) == 0
    assert plain_redis.hlen(keyspace.shard("published")) == 0


async def test_usage_beyond_the_reservation_is_charged_when_a_step_is_handed_over(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts, "tokens=5")

    assert await scripts.lose(claim, POOL, "handed_over", {"tokens": 12, "searches": 1})

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 12, 0)
    assert plain_redis.hget(keyspace.run("r1").accounts, "total|tokens") == b"12"


async def test_what_a_handed_over_step_did_not_report_stays_charged(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)

    assert await scripts.lose(claim, POOL, "handed_over", {"tokens": 12})
    assert await commit_claim(scripts, claim, {"tokens": 99}) == LeaseLost()  # no late bill can follow

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 12, 18)


async def test_a_worker_that_left_under_a_body_has_handed_it_over_once_it_is_gone(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)

    assert await scripts.leave(claim, {"tokens": 12})
    assert not await scripts.lose(claim, POOL, "died", {}), "it has not ended yet: the body must run nowhere else"
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    assert await scripts.lose(claim, POOL, "died", {})

    assert (await load_run(scripts)).events[-1].fields["reason"] == "handed_over"
    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 12, 18)


async def test_a_body_that_ends_before_its_process_is_committed(scripts: Scripts) -> None:
    claim = await _held(scripts)
    await scripts.leave(claim, {"tokens": 12})

    assert await commit_claim(scripts, claim, {"tokens": 20}) == Committed({})


@pytest.mark.parametrize(("lost_spend", "reason", "unknown"), [("refund", "died", 0), ("charge", "stranger", 0)])
async def test_a_refunded_loss_gives_everything_back(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, lost_spend: str, reason: str, unknown: int
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30", lost_spend=lost_spend), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

    assert await scripts.lose(claim, POOL, reason, {})

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 0, unknown)


async def test_a_late_bill_of_a_refunded_loss_is_charged(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30", lost_spend="refund"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})
    await scripts.lose(claim, POOL, "died", {})

    assert await commit_claim(scripts, claim, {"tokens": 20}) == LeaseLost()

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 20, 0)


async def test_an_overdue_claim_is_lost_although_its_worker_lives(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    dispatch = replace(a_dispatch("0"), terms="-1000;charge;root;;input")  # a lease that ended a second ago
    await started_run(scripts, dispatch)
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.lose(claim, POOL, "overdue", {})

    assert (await load_run(scripts)).events[-1].fields["reason"] == "overdue"


@ON_REAL_SERVERS
async def test_leases_are_renewed_although_memory_is_full(scripts: Scripts, plain_redis: redis.Redis) -> None:
    await _held(scripts)

    with full_memory(plain_redis):
        renewal = await scripts.renew("w1", 60_000, 0)

    assert isinstance(renewal, Renewal)


@ON_REAL_SERVERS
async def test_what_full_memory_refuses_changes_nothing_and_says_what_to_do(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    claim = await _held(scripts)

    async with unchanged(plain_redis, keyspace):
        with full_memory(plain_redis), pytest.raises(StateUnavailableError, match="raise maxmemory"):
            await scripts.extend(claim, POOL, 1, {"tokens": 1})

    assert await scripts.extend(claim, POOL, 1, {"tokens": 1}) is None


async def test_a_script_that_redis_forgot_is_loaded_again(scripts: Scripts, plain_redis: redis.Redis) -> None:
    await create_run(scripts)
    plain_redis.script_flush()

    assert await create_run(scripts) == "running"


async def test_an_answer_of_redis_that_is_an_error_becomes_ours(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    plain_redis.sadd(keyspace.run("r9").run, "not a hash")
    plain_redis.expire(keyspace.run("r9").run, 60)

    with pytest.raises(ScriptRefusedError, match="or newer"):
        await scripts.cancel("r9", POOL, "")


async def test_an_event_of_a_newer_release_is_a_mismatch(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await create_run(scripts)
    keys = keyspace.run("r1")
    newer = plain_redis.xadd(keys.events, {"kind": "teleported", "path": "0"})
    last = plain_redis.hget(keys.run, "last_event")
    assert isinstance(last, bytes)
    plain_redis.hset(keys.run, b"next|" + last, newer)

    with pytest.raises(SchemaMismatchError, match=r"'teleported' is not a valid EventKind.*upgrade this process"):
        await load_run(scripts)


async def test_a_run_of_a_newer_release_is_not_loaded(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await create_run(scripts)
    plain_redis.hset(keyspace.run("r1").run, "schema", "99")

    with pytest.raises(SchemaMismatchError, match="schema 99"):
        await load_run(scripts)


async def test_retries_of_advance_after_it_was_followed_by_another_are_refused(scripts: Scripts) -> None:
    await create_run(scripts)
    loaded = await load_run(scripts)
    assert isinstance(await advance_run(scripts, loaded, operation="one"), Advanced)
    assert isinstance(await advance_run(scripts, await load_run(scripts), operation="two"), Advanced)

    assert await advance_run(scripts, loaded, operation="one") == Overtaken()
