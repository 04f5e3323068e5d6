"""Calls that come too late, after a loss, a cancel or an end, are refused and leave every key as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import Claim, Duplicate, Emission, Forbidden, LeaseLost, RunInactive, WorkerDead
from flujo_client.protocol.scripts import Scripts
from tests.conftest import dump
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

Prepare = Callable[[Scripts, Claim], Awaitable[Any]]


async def _lost(scripts: Scripts, claim: Claim) -> None:
    assert await scripts.lose(claim, POOL, "handed_over", {})


async def _lost_and_billed(scripts: Scripts, claim: Claim) -> None:
    await scripts.register("incarnations", "w1", -1000, 0)
    assert await scripts.lose(claim, POOL, "died", {})
    assert await commit_claim(scripts, claim, {"tokens": 3}) == LeaseLost()


async def _cancelled(scripts: Scripts, claim: Claim) -> None:
    assert await scripts.cancel("r1", POOL, "enough") is None


async def _discarded(scripts: Scripts, claim: Claim) -> None:
    await _cancelled(scripts, claim)
    assert isinstance(await commit_claim(scripts, claim), RunInactive)


async def _finished(scripts: Scripts, claim: Claim) -> None:
    await advance_run(scripts, await load_run(scripts), status="completed")
    assert await scripts.finish("r1", POOL, b"{}", 60_000)


async def _worker_expired(scripts: Scripts, claim: Claim) -> None:
    await scripts.register("incarnations", "w1", -1000, 0)


async def _worker_buried(scripts: Scripts, claim: Claim) -> None:
    await scripts.register("incarnations", "w1", -1000, 0)
    assert await scripts.lose(claim, POOL, "died", {})
    assert await scripts.bury("incarnations", "w1", 0)


async def _manager_alive(scripts: Scripts, claim: Claim) -> None:
    await scripts.register("managers", POOL, 60_000, 0)


async def _two_specs(scripts: Scripts, claim: Claim) -> None:
    await scripts.publish_spec("p", "old", b"{}")
    await scripts.publish_spec("p", "new", b"{}")


async def _advance(scripts: Scripts) -> Any:
    return await advance_run(scripts, await load_run(scripts), a_dispatch("2"))


LATE: dict[str, tuple[Prepare, Callable[[Scripts, Claim], Awaitable[Any]], Any]] = {
    "extend after a loss": (_lost, lambda s, c: s.extend(c, POOL, 1, {"tokens": 1}), LeaseLost()),
    "emit after a loss": (_lost, lambda s, c: s.emit(c, 1, b"jx", 1000), Emission.LOST),
    "stash after a loss": (_lost, lambda s, c: s.stash(c, "out:0!items", 0, [b"j1"]), False),
    "lose after a loss": (_lost, lambda s, c: s.lose(c, POOL, "handed_over", {"tokens": 5}), False),
    "reserve after a loss": (_lost, lambda s, c: s.reserve(c, POOL), Duplicate()),
    "decline after a loss": (_lost, lambda s, c: s.decline("r1 0 1 q", "0", 1, "s", 500), None),
    "commit after a late bill": (_lost_and_billed, lambda s, c: commit_claim(s, c, {"tokens": 3}), LeaseLost()),
    "commit again after a cancel": (_discarded, lambda s, c: commit_claim(s, c, {"tokens": 3}), RunInactive("running")),
    "reserve after a cancel": (_cancelled, lambda s, c: s.reserve(new_claim("1"), POOL), RunInactive("running")),
    "advance after a cancel": (_cancelled, lambda s, c: _advance(s), Forbidden("cancelled")),
    "advance after the end": (_finished, lambda s, c: _advance(s), Forbidden("closed")),
    "reserve after the end": (_finished, lambda s, c: s.reserve(new_claim("1"), POOL), RunInactive("completed")),
    "create after the end": (_finished, lambda s, c: create_run(s, limits={"tokens": 100}), "completed"),
    "finish after the end": (_finished, lambda s, c: s.finish("r1", POOL, b"{}", 60_000), False),
    "reserve of a buried worker": (_worker_buried, lambda s, c: s.reserve(new_claim("1"), POOL), WorkerDead()),
    "renewal of a buried worker": (_worker_buried, lambda s, c: s.renew("w1", 1000, 0), WorkerDead()),
    "burial of a buried worker": (_worker_buried, lambda s, c: s.bury("incarnations", "w1", 0), False),
    "burial of a worker with a lease": (_worker_expired, lambda s, c: s.bury("incarnations", "w1", 0), False),
    "adoption from a living manager": (_manager_alive, lambda s, c: s.adopt("r1", POOL, "m2"), False),
    "an old spec": (_two_specs, lambda s, c: s.publish_spec("p", "old", b"{}"), False),
}


@pytest.mark.parametrize("case", LATE)
async def test_a_late_call_is_refused_and_changes_no_key(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, case: str
) -> None:
    prepare, call, answer = LATE[case]
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), a_dispatch("1"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    await prepare(scripts, claim)
    before = dump(plain_redis, keyspace)

    assert await call(scripts, claim) == answer
    assert dump(plain_redis, keyspace) == before


async def test_an_attempt_past_its_deadline_stays_charged_until_its_late_bill(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    past = replace(a_dispatch("0"), terms="-1000;charge;root;tokens=30;input")  # its lease ended a second ago
    await started_run(scripts, past, limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)

    assert await scripts.lose(claim, POOL, "overdue", {"tokens": 5})

    account = account_of(plain_redis, keyspace)
    assert (account["reserved"], account["spent"], account["unknown"]) == (0, 0, 30)  # the bill brings the 5 again
    assert plain_redis.zcard(keyspace.held("w1", 0)) == 0
    assert not await scripts.lose(claim, POOL, "overdue", {"tokens": 5})
    assert await commit_claim(scripts, claim, {"tokens": 12}) == LeaseLost()
    account = account_of(plain_redis, keyspace)
    assert (account["spent"], account["unknown"]) == (12, 0)


async def test_a_lease_lost_after_the_runs_end_is_settled_and_says_nothing_more(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    await _cancelled(scripts, claim)
    await advance_run(scripts, await load_run(scripts), status="cancelled")
    assert await scripts.finish("r1", POOL, b"{}", 60_000)
    events = plain_redis.xrange(keyspace.run("r1").events, min="(0-0", count=100)

    await scripts.register("incarnations", "w1", -1000, 0)
    assert await scripts.lose(claim, POOL, "died", {})

    assert plain_redis.xrange(keyspace.run("r1").events, min="(0-0", count=100) == events
    assert not plain_redis.exists(keyspace.shard("dirty"))
    assert account_of(plain_redis, keyspace)["unknown"] == 30


async def test_of_two_who_revive_a_step_the_first_is_heard(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))

    assert await scripts.revive("r1", "0", 3, POOL, "one", "retry")
    assert await scripts.revive("r1", "0", 3, POOL, "other", "drop") is False
    assert await scripts.revive("r1", "0", 3, POOL, "one", "retry")

    told = [event for event in (await load_run(scripts)).events if event.kind == "revived"]
    assert [(event.attempt, event.fields["how"]) for event in told] == [(3, "retry")]
    assert await scripts.revive("r1", "0", 4, POOL, "later", "drop")  # the step was lost again
