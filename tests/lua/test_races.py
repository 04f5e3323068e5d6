"""Races that are made to happen: two clients, each on a connection of its own, at once, many times."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import (
    Advanced,
    Committed,
    Forbidden,
    LeaseLost,
    Overtaken,
    Refusal,
    Reserved,
    RunInactive,
)
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from tests.lua.runs import (
    a_dispatch,
    account_of,
    advance_run,
    commit_claim,
    create_run,
    load_run,
    new_claim,
    started_run,
    sweep_page,
)

ROUNDS = 10


@pytest.fixture
async def other(each_redis_url: str, keyspace: Keyspace) -> AsyncIterator[Scripts]:
    """A second client of the same namespace."""
    wire = Wire(each_redis_url)
    yield Scripts(ScriptCaller(wire), keyspace)
    await wire.close()


async def _reset(client: redis.Redis, keyspace: Keyspace) -> None:
    for key in client.scan_iter(match=f"{{{keyspace.namespace}:*"):
        client.delete(key)


async def test_of_two_submissions_of_one_id_one_is_new(scripts: Scripts, other: Scripts) -> None:
    answers = await asyncio.gather(create_run(scripts), create_run(other), create_run(scripts), create_run(other))

    assert sorted(map(str, answers)) == ["None", "running", "running", "running"]


async def test_of_two_managers_one_advances(scripts: Scripts, other: Scripts) -> None:
    await create_run(scripts)
    for _ in range(ROUNDS):
        loaded, also = await asyncio.gather(load_run(scripts), load_run(other))

        answers = await asyncio.gather(advance_run(scripts, loaded), advance_run(other, also))

        assert {type(answer) for answer in answers} == {Advanced, Overtaken}


async def test_commit_and_loss_exclude_each_other(
    scripts: Scripts, other: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for number in range(ROUNDS):
        await _reset(plain_redis, keyspace)
        await started_run(scripts, a_dispatch("0", estimate="tokens=30"), limits={"tokens": 100})
        claim = new_claim()
        await scripts.reserve(claim, POOL)
        plain_redis.zadd(keyspace.shard("incarnations"), {"w1": 1})

        calls = [commit_claim(scripts, claim, {"tokens": 12}), other.lose(claim, POOL, "died", {})]
        answers = await asyncio.gather(*(calls if number % 2 else reversed(calls)))

        lost = True in answers
        assert isinstance(answers[0 if number % 2 else 1], LeaseLost if lost else Committed)
        account = account_of(plain_redis, keyspace)
        assert (account["spent"], account["reserved"], account["unknown"]) == (12, 0, 0)
        kinds = [event.kind.value for event in (await load_run(scripts)).events]
        assert kinds == ["lost" if lost else "succeeded"]


async def test_of_cancel_and_the_end_the_first_wins(
    scripts: Scripts, other: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for number in range(ROUNDS):
        await _reset(plain_redis, keyspace)
        await create_run(scripts)
        loaded = await load_run(scripts)

        ended, cancelled = (
            await asyncio.gather(advance_run(scripts, loaded, status="completed"), other.cancel("r1", POOL, ""))
            if number % 2
            else (await asyncio.gather(other.cancel("r1", POOL, ""), advance_run(scripts, loaded, status="completed")))[
                ::-1
            ]
        )

        if isinstance(ended, Advanced):
            assert cancelled == "completed"
        else:
            assert (ended, cancelled) == (Forbidden("cancelled"), None)


async def test_a_cancelled_run_starts_nothing(
    scripts: Scripts, other: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for _ in range(ROUNDS):
        await _reset(plain_redis, keyspace)
        await started_run(scripts, a_dispatch("0"))
        claim = new_claim()

        reserved, _ = await asyncio.gather(scripts.reserve(claim, POOL), other.cancel("r1", POOL, ""))

        committed = await commit_claim(scripts, claim)
        if isinstance(reserved, Reserved):
            assert committed == RunInactive("running")
        else:
            assert (reserved, committed) == (RunInactive("running"), LeaseLost())
        assert not plain_redis.hexists(keyspace.run("r1").payloads, "out:0")


async def test_two_steps_cannot_both_have_the_last_of_a_budget(
    scripts: Scripts, other: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for _ in range(ROUNDS):
        await _reset(plain_redis, keyspace)
        steps = [a_dispatch("0", estimate="tokens=60"), a_dispatch("1", estimate="tokens=60")]
        await started_run(scripts, *steps, limits={"tokens": 100})

        answers = await asyncio.gather(scripts.reserve(new_claim("0"), POOL), other.reserve(new_claim("1"), POOL))

        assert {type(answer) for answer in answers} == {Reserved, Refusal}
        assert account_of(plain_redis, keyspace)["reserved"] == 60


async def test_two_extensions_cannot_both_have_the_last_of_a_budget(scripts: Scripts, other: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"), a_dispatch("1"), limits={"tokens": 100})
    one, two = new_claim("0"), new_claim("1")
    await scripts.reserve(one, POOL)
    await scripts.reserve(two, POOL)

    answers = await asyncio.gather(
        scripts.extend(one, POOL, 1, {"tokens": 60}), other.extend(two, POOL, 1, {"tokens": 60})
    )

    assert sorted(type(answer).__name__ for answer in answers) == ["NoneType", "Refusal"]


async def test_one_of_many_sweeps_is_answered(scripts: Scripts, other: Scripts) -> None:
    pages = await asyncio.gather(
        *(sweep_page(client, period_ms=60_000, gap_ms=2000) for client in (scripts, other) * ROUNDS)
    )

    assert sum(page is not None for page in pages) == 1


async def test_the_same_finish_twice_at_once_shows_one_end(scripts: Scripts, other: Scripts) -> None:
    await create_run(scripts)
    await advance_run(scripts, await load_run(scripts), status="completed")

    answers = await asyncio.gather(scripts.finish("r1", POOL, b"{}", 60_000), other.finish("r1", POOL, b"{}", 60_000))

    assert sorted(answers) == [False, True]
    events = scripts.keyspace.run("r1").events
    entries = await scripts.commands.execute("XRANGE", events, "(0-0", "+", "COUNT", 100)
    assert [fields[1] for _, fields in entries].count(b"finished") == 1
