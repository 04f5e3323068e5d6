"""Deciding ahead: a commit goes on by itself only on exactly the state that was decided on; else it changes nothing more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from flujo_client import Pipeline, Step
from flujo_client.archive.dump import RunDumps
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.messages import Event, EventKind, WakeUp
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.replies import Advanced, Claim, Committed, Dispatch, Duplicate, Follower, Reserved
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.specs import SpecStore
from tests.lua.runs import a_dispatch, advance_run, load_run, new_claim, started_run


def _list(scripts: Scripts) -> str:
    """The broker's list of a test."""
    return f"{scripts.keyspace.namespace}.q"


async def _started(scripts: Scripts, followers: tuple[tuple[str, str], ...] = (("0", "1"), ("1", "2"))) -> Advanced:
    """Run r1 with step 0 dispatched and what follows it decided ahead; how that was stored."""
    await started_run(scripts, a_dispatch("0"))
    decided = await _decided(scripts)
    assert await scripts.look_ahead("r1", decided, [_follower(*pair) for pair in followers])
    await scripts.commands.execute("DEL", _list(scripts), scripts.keyspace.inbox(POOL, 0))
    return decided


async def _decided(scripts: Scripts) -> Advanced:
    """How the last decision on r1 was stored."""
    record = (await load_run(scripts)).record
    return Advanced(int(record["revision"]), record["operation"], False, 0)


def _follower(after: str, path: str) -> Follower:
    terms = "60000;charge;root;;input"
    return Follower(after, Dispatch(path, 1, "q", "m:f", "l", terms=terms, task=b'{"ahead":1}'), f"message of {path}")


async def _commit(scripts: Scripts, path: str, **changes: Any) -> Any:
    claim = new_claim(path)
    assert isinstance(await scripts.reserve(claim, POOL), Reserved)
    return await _commit_claim(scripts, claim, **changes)


async def _commit_claim(scripts: Scripts, claim: Claim, **changes: Any) -> Any:
    outcome: dict[str, Any] = {"kind": "succeeded", "usage": {}, "context": b"", "context_form": "", "data": b"{}"}
    outcome["broker_list"] = _list(scripts)
    return await scripts.commit(claim, POOL, output=b"j2", result=b"j{}", **(outcome | changes))


async def _published(scripts: Scripts) -> list[bytes]:
    """What was published since this was asked last, in order."""
    return list(reversed(await scripts.commands.execute("LPOP", _list(scripts), 99) or ()))


async def _events(scripts: Scripts) -> list[Event]:
    return (await load_run(scripts)).events


async def test_commits_go_on_by_themselves_and_wake_nobody_before_the_last(scripts: Scripts) -> None:
    await _started(scripts)

    for path in ("0", "1"):
        assert isinstance(await _commit(scripts, path), Committed)

    assert await _published(scripts) == [b"message of 1", b"message of 2"]
    left = await scripts.commands.execute("HGETALL", scripts.keyspace.run("r1").attempts)
    assert [name for name in left[::2] if name.endswith((b"|then", b"|message"))] == []
    assert [event.fields.get("ahead") for event in await _events(scripts)] == ["1", "2"]
    assert not await scripts.commands.execute("EXISTS", scripts.keyspace.inbox(POOL, 0))
    assert await scripts.commands.execute("ZSCORE", scripts.keyspace.shard("dirty"), "r1") is not None
    assert isinstance(await _commit(scripts, "2"), Committed)
    (entry,) = await scripts.commands.execute("LPOP", scripts.keyspace.inbox(POOL, 0), 9)
    assert WakeUp.parse(entry).event == (await _events(scripts))[-1]


async def test_what_a_commit_dispatched_is_journalled_as_any_dispatch(scripts: Scripts) -> None:
    await _started(scripts)
    await _commit(scripts, "0")

    member = "r1 1 1 q"
    assert await scripts.commands.execute("ZSCORE", scripts.keyspace.shard("dispatches"), member) is not None
    assert (await scripts.commands.execute("HGET", scripts.keyspace.shard("published"), member)).endswith(b" 1")
    claim = new_claim("1")
    answer = await scripts.reserve(claim, POOL)
    assert isinstance(answer, Reserved)
    assert (answer.task, answer.payloads) == (b'{"ahead":1}', [b"j1"])
    assert isinstance(await scripts.reserve(new_claim("1"), POOL), Duplicate)


async def test_the_same_commit_again_publishes_nothing_more(scripts: Scripts) -> None:
    await _started(scripts)
    claim = new_claim("0")
    await scripts.reserve(claim, POOL)
    for _ in range(2):
        await _commit_claim(scripts, claim)

    assert await _published(scripts) == [b"message of 1"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"kind": "failed"}, id="it failed"),
        pytest.param({"kind": "paused"}, id="it paused"),
        pytest.param({"context": b"j{}", "context_form": "delta"}, id="it changed the context"),
        pytest.param({"broker_list": ""}, id="the broker is another"),
    ],
)
async def test_any_other_outcome_is_for_the_manager(scripts: Scripts, changes: dict[str, Any]) -> None:
    await _started(scripts)

    await _commit(scripts, "0", **changes)

    await _nothing_went_ahead(scripts)


async def _nothing_went_ahead(scripts: Scripts) -> None:
    assert await _published(scripts) == []
    assert [event.fields.get("ahead") for event in await _events(scripts)][-1] is None
    assert await scripts.commands.execute("EXISTS", scripts.keyspace.inbox(POOL, 0))


async def test_an_outcome_over_budget_is_for_the_manager(scripts: Scripts) -> None:
    await started_run(scripts, a_dispatch("0", estimate="tokens=1"), limits={"tokens": 2})
    await scripts.look_ahead("r1", await _decided(scripts), [_follower("0", "1")])

    await _commit(scripts, "0", usage={"tokens": 5})

    assert await _published(scripts) == []


async def test_after_another_decision_nothing_goes_by_the_old_outlook(scripts: Scripts) -> None:
    await _started(scripts)
    assert isinstance(await advance_run(scripts, await load_run(scripts)), Advanced)

    await _commit(scripts, "0")

    await _nothing_went_ahead(scripts)


async def test_an_outcome_that_is_not_applied_yet_is_decided_on_first(scripts: Scripts) -> None:
    await _started(scripts)
    await scripts.resume("r1", "9", POOL, "op", b"j1")

    await _commit(scripts, "0")

    await _nothing_went_ahead(scripts)


async def test_a_cancelled_run_goes_on_with_nothing(scripts: Scripts) -> None:
    await _started(scripts)
    claim = new_claim("0")
    await scripts.reserve(claim, POOL)
    await scripts.cancel("r1", POOL, "enough")

    await _commit_claim(scripts, claim)

    assert await _published(scripts) == []


async def test_an_outlook_on_a_run_that_has_moved_on_is_not_stored(scripts: Scripts) -> None:
    decided = await _started(scripts, (("0", "1"),))
    attempts = scripts.keyspace.run("r1").attempts
    before = await scripts.commands.execute("HGETALL", attempts)

    assert not await scripts.look_ahead("r1", replace(decided, revision=decided.revision - 1), [_follower("0", "7")])
    another = replace(decided, operation="of a history that Redis has lost")
    assert not await scripts.look_ahead("r1", another, [_follower("0", "7")])
    await scripts.cancel("r1", POOL, "enough")
    assert not await scripts.look_ahead("r1", decided, [_follower("0", "7")])

    assert await scripts.commands.execute("HGETALL", attempts) == before


async def test_the_decision_that_follows_leaves_what_is_under_way_alone(scripts: Scripts) -> None:
    await _started(scripts)
    await _commit(scripts, "0")
    claim = new_claim("1")
    await scripts.reserve(claim, POOL)
    ahead = Dispatch("1", 1, "q", "m:f", "l", ahead=True)

    assert isinstance(await advance_run(scripts, await load_run(scripts), ahead), Advanced)

    assert isinstance(await scripts.reserve(new_claim("1"), POOL), Duplicate)
    assert isinstance(await _commit_claim(scripts, claim), Committed)
    assert await _published(scripts) == [b"message of 1"]  # the outlook was of the revision before


async def test_an_outlook_that_was_decided_while_commits_went_on_holds_for_what_comes(scripts: Scripts) -> None:
    await _started(scripts)
    await _commit(scripts, "0")
    loaded = await load_run(scripts)  # knows of the end of 0; 1 ends before the decision is stored
    await _commit(scripts, "1")
    decided = await advance_run(scripts, loaded, Dispatch("1", 1, "q", "m:f", "l", ahead=True))
    assert isinstance(decided, Advanced)
    assert await scripts.look_ahead("r1", decided, [_follower("1", "2"), _follower("2", "3")])

    await _commit(scripts, "2")

    assert await _published(scripts) == [b"message of 1", b"message of 2", b"message of 3"]
    assert [event.kind for event in await _events(scripts)] == [EventKind.SUCCEEDED] * 2


async def test_a_manager_hears_of_a_long_way_ahead_on_the_way(scripts: Scripts) -> None:
    await _started(scripts)
    await _commit(scripts, "0")
    dirty = scripts.keyspace.shard("dirty")
    since = int(await scripts.commands.execute("ZSCORE", dirty, "r1"))
    await scripts.commands.execute("ZADD", dirty, since - 300, "r1")

    await _commit(scripts, "1")

    assert await scripts.commands.execute("EXISTS", scripts.keyspace.inbox(POOL, 0))


async def test_two_commits_of_one_attempt_go_ahead_once(scripts: Scripts) -> None:
    await _started(scripts)
    claims = [new_claim("0") for _ in range(2)]
    answers = await asyncio.gather(*(scripts.reserve(claim, POOL) for claim in claims))
    assert sorted(type(answer).__name__ for answer in answers) == ["Duplicate", "Reserved"]

    await asyncio.gather(*(_commit_claim(scripts, claim) for claim in claims))

    assert await _published(scripts) == [b"message of 1"]


async def test_a_dump_leaves_behind_what_was_decided_ahead(scripts: Scripts) -> None:
    spec = Pipeline([Step.from_callable(abs, name="s")], name="p").to_spec()
    specs = SpecStore(scripts)
    await specs.keep(spec, "r1")
    await _started(scripts)
    await scripts.commands.execute("HSET", scripts.keyspace.run("r1").run, "spec", spec.content_hash)

    dump = await RunDumps(scripts, JsonCodec(1_000), specs).read("r1")

    assert dump.attempts["1|terms"]
    assert [name for name in dump.attempts if name.endswith(("|then", "|message"))] == []
