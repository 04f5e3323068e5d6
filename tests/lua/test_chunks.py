"""Chunks of running steps: in order, once, of held claims only; bounded; and never in a manager's way."""

from __future__ import annotations

import asyncio
from typing import Any

import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import Advanced, Claim, Emission, Reserved
from flujo_client.protocol.scripts import Scripts
from tests.lua.runs import a_dispatch, advance_run, commit_claim, load_run, new_claim, started_run


async def _claimed(scripts: Scripts, attempt: int = 1) -> Claim:
    claim = new_claim(attempt=attempt)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    return claim


def _stream(client: redis.Redis, keyspace: Keyspace) -> list[tuple[str, str]]:
    entries: Any = client.xrange(keyspace.run("r1").events, min="(0-0", count=10_000)
    kinds = [(fields[b"kind"].decode(), fields.get(b"data", b"").decode()) for _, fields in entries]
    return [(kind, data) for kind, data in kinds if kind in ("chunk", "gap")]


async def test_no_chunk_follows_the_end_of_its_run(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = await _claimed(scripts)
    await scripts.cancel("r1", POOL, "enough")

    assert await scripts.emit(claim, 1, b"1", 1000) is Emission.LOST


async def test_concurrent_chunks_of_one_sequence_number_are_one(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = await _claimed(scripts)

    await asyncio.gather(*(scripts.emit(claim, 1, b'"x"', 1000) for _ in range(5)))

    assert _stream(plain_redis, keyspace) == [("chunk", '"x"')]


async def test_a_manager_finds_outcomes_behind_any_number_of_chunks(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"), a_dispatch("1"))
    claim, other = await _claimed(scripts), new_claim("1")
    await scripts.reserve(other, POOL)
    for number in range(1, 301):
        await scripts.emit(claim, number, b"1", 100_000)
    await commit_claim(scripts, other)
    for number in range(301, 601):
        await scripts.emit(claim, number, b"1", 100_000)
    await commit_claim(scripts, claim)

    loaded = await load_run(scripts)

    assert [event.path for event in loaded.events] == ["1", "0"]


async def test_what_is_applied_is_found_no_more_and_leaves_nothing_behind(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = await _claimed(scripts)
    await commit_claim(scripts, claim)

    answer = await advance_run(scripts, await load_run(scripts))

    assert isinstance(answer, Advanced)
    assert not answer.dirty
    assert (await load_run(scripts)).events == []
    record: Any = plain_redis.hgetall(keyspace.run("r1").run)
    assert [field for field in record if field.startswith(b"next|")] == []


async def test_past_the_limit_superseded_attempts_go_first_then_a_gap_stands(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    first = await _claimed(scripts)
    for number in range(1, 4):
        assert await scripts.emit(first, number, b'"old"', 20) is Emission.APPENDED
    await scripts.lose(first, POOL, "handed_over", {})
    await advance_run(scripts, await load_run(scripts), a_dispatch("0", attempt=2))
    second = await _claimed(scripts, attempt=2)

    assert await scripts.emit(second, 1, b'"new 1"', 20) is Emission.AGAIN
    assert await scripts.emit(second, 1, b'"new 1"', 20) is Emission.APPENDED
    assert await scripts.emit(second, 2, b'"new 2"', 20) is Emission.APPENDED
    assert await scripts.emit(second, 3, b'"new 3"', 20) is Emission.GAP
    assert await scripts.emit(second, 3, b'"new 3"', 20) is Emission.APPENDED  # again: nothing new
    assert await scripts.emit(second, 4, b'"new 4"', 20) is Emission.GAP

    assert _stream(plain_redis, keyspace) == [("chunk", '"new 1"'), ("chunk", '"new 2"'), ("gap", "")]


async def test_a_large_stream_is_swept_a_page_a_call(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    first = await _claimed(scripts)
    for number in range(1, 701):
        await scripts.emit(first, number, b"1", 700)
    await scripts.lose(first, POOL, "handed_over", {})
    await advance_run(scripts, await load_run(scripts), a_dispatch("0", attempt=2))
    second = await _claimed(scripts, attempt=2)

    assert await scripts.emit(second, 1, b"x" * 600, 700) is Emission.AGAIN
    assert await scripts.emit(second, 1, b"x" * 600, 700) is Emission.AGAIN
    assert await scripts.emit(second, 1, b"x" * 600, 700) is Emission.APPENDED

    assert len(_stream(plain_redis, keyspace)) == 1
