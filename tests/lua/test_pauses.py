"""Answers to pauses: the first one wins, whoever comes when; a run that has ended takes none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.replies import Advanced, Alarm, Answered, AnsweredBefore, Forbidden, Reserved, RunInactive
from flujo_client.protocol.scripts import Scripts
from tests.conftest import dump
from tests.lua.runs import a_dispatch, advance_run, load_run, new_claim, started_run, sweep_page


async def test_of_two_answers_at_once_one_wins_and_the_other_is_told(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))

    replies = await asyncio.gather(
        scripts.resume("r1", "0", POOL, "op-a", b'j"a"'), scripts.resume("r1", "0", POOL, "op-b", b'j"b"')
    )

    assert sorted(type(reply).__name__ for reply in replies) == ["Answered", "AnsweredBefore"]
    assert AnsweredBefore("given") in replies
    stored = plain_redis.hget(keyspace.run("r1").payloads, "ans:0")
    assert stored == (b'j"a"' if isinstance(replies[0], Answered) else b'j"b"')
    assert [event.kind for event in (await load_run(scripts)).events] == [EventKind.ANSWERED]


async def test_the_loser_changes_nothing(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    await started_run(scripts, a_dispatch("0"))
    await scripts.resume("r1", "0", POOL, "op-a", b'j"a"')
    before = dump(plain_redis, keyspace)

    assert await scripts.resume("r1", "0", POOL, "op-b", b'j"b"') == AnsweredBefore("given")
    assert dump(plain_redis, keyspace) == before


async def test_the_same_answer_sent_again_gets_the_same_reply_also_after_the_end(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    first = await scripts.resume("r1", "0", POOL, "op", b"j1")
    await advance_run(scripts, await load_run(scripts), status="failed")

    assert await scripts.resume("r1", "0", POOL, "op", b"j1") == first
    assert await scripts.finish("r1", POOL, b"{}", 1000)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_run_that_was_cancelled_or_ended_takes_no_answer(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, end: str
) -> None:
    await started_run(scripts, a_dispatch("0"))
    if end == "cancelled":
        await scripts.cancel("r1", POOL, "enough")
    else:
        await advance_run(scripts, await load_run(scripts), status="failed")
    before = dump(plain_redis, keyspace)

    status = "running" if end == "cancelled" else "failed"
    assert await scripts.resume("r1", "0", POOL, "op", b"j1") == RunInactive(status)
    assert dump(plain_redis, keyspace) == before
    if end == "failed":
        assert await scripts.finish("r1", POOL, b"{}", 1000)


async def test_of_abort_and_cancel_the_first_says_how_the_run_ends(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))

    assert await scripts.abort("r1", POOL, "a hook") is None
    assert await scripts.cancel("r1", POOL, "somebody") is None

    loaded = await load_run(scripts)
    assert (loaded.record["ending"], loaded.record["reason"]) == ("aborted", "a hook")
    (event,) = loaded.events
    assert event.fields["status"] == "aborted"
    assert await advance_run(scripts, loaded, status="running") == Forbidden("cancelled")
    assert isinstance(await advance_run(scripts, loaded, status="aborted"), Advanced)
    assert await scripts.finish("r1", POOL, b"{}", 1000)


async def test_an_answer_may_come_while_the_step_that_will_pause_still_runs(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)

    assert isinstance(await scripts.resume("r1", "0", POOL, "op", b"j1"), Answered)

    terms = {"usage": {}, "output": b"", "result": b"j{}", "context": b"", "context_form": "", "data": b"{}"}
    await scripts.commit(claim, POOL, kind="paused", **terms)  # type: ignore[arg-type]
    kinds = [event.kind for event in (await load_run(scripts)).events]
    assert kinds == [EventKind.ANSWERED, EventKind.PAUSED]


async def test_a_run_at_rest_tells_its_followers_and_leaves_its_managers_alone(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await started_run(scripts, a_dispatch("0"))
    await scripts.resume("r1", "9", POOL, "op", b"j1")

    answer = await advance_run(scripts, await load_run(scripts), status="paused")

    assert isinstance(answer, Advanced)
    assert not answer.dirty
    stream: list[Any] = plain_redis.xrange(keyspace.run("r1").events, min="(0-0", count=100)  # type: ignore[assignment]  # redis-py's stubs
    assert stream[-1][1][b"kind"] == b"suspended"
    assert (await load_run(scripts)).events == []
    assert (await load_run(scripts)).record["gate"] == "open"


async def _with_alarm(scripts: Scripts, what: str, at_ms: int = 1) -> None:
    await started_run(scripts, a_dispatch("0"))
    await advance_run(scripts, await load_run(scripts), alarms=(Alarm("0", what, at_ms),))


async def test_the_end_of_the_wait_and_an_answer_at_once_have_one_winner(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await _with_alarm(scripts, "expired")

    rung, answered = await asyncio.gather(
        scripts.ring("r1", "0", "expired", POOL), scripts.resume("r1", "0", POOL, "op", b"j1")
    )

    assert rung is isinstance(answered, AnsweredBefore)
    (event,) = (await load_run(scripts)).events
    assert event.fields["how"] == ("expired" if rung else "given")
    assert rung or isinstance(answered, Answered)
    if rung:
        assert answered == AnsweredBefore("expired")


async def test_an_alarm_rings_once_when_it_is_due_and_not_before(scripts: Scripts) -> None:
    await _with_alarm(scripts, "reminded:1")
    await advance_run(scripts, await load_run(scripts), alarms=(Alarm("0", "reminded:2", 9_000_000_000_000),))

    assert await scripts.ring("r1", "0", "reminded:1", POOL)
    assert not await scripts.ring("r1", "0", "reminded:1", POOL)
    assert not await scripts.ring("r1", "0", "reminded:2", POOL)

    (event,) = (await load_run(scripts)).events
    assert (event.kind, event.fields["number"]) == (EventKind.REMINDED, "1")
    page = await sweep_page(scripts)
    assert page is not None
    assert page.alarms == []


async def test_the_sweep_finds_what_is_due_and_an_answer_makes_it_nothing(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await _with_alarm(scripts, "expired")
    page = await sweep_page(scripts)
    assert page is not None
    assert page.alarms == [("r1", "0", "expired")]
    await scripts.resume("r1", "0", POOL, "op", b"j1")

    assert not await scripts.ring("r1", "0", "expired", POOL)
    assert plain_redis.zcard(keyspace.shard("alarms")) == 0


async def test_an_alarm_of_a_run_that_was_cancelled_is_dropped(scripts: Scripts) -> None:
    await _with_alarm(scripts, "expired")
    await scripts.cancel("r1", POOL, "enough")

    assert not await scripts.ring("r1", "0", "expired", POOL)


async def test_an_answered_pause_drops_its_alarms(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await _with_alarm(scripts, "expired")
    loaded = await load_run(scripts)

    await scripts.advance(
        loaded,
        "drop",
        applied=loaded.record["applied"],
        status=None,
        error=b"",
        suspect_ms=2000,
        nodes={},
        splits=(),
        branch_ends=(),
        dispatches=(),
        alarms=(Alarm("0", "expired", None),),
    )

    assert plain_redis.zcard(keyspace.shard("alarms")) == 0
