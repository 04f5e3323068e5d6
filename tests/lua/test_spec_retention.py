"""A spec stays as long as a run, or a name, refers to it, and not for ever."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
import redis

from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.replies import SpecNotKept
from flujo_client.protocol.scripts import Scripts
from tests.lua.runs import advance_run, create_run, load_run
from tests.lua.test_refusals import TERMS


def _time_passes(client: redis.Redis, keyspace: Keyspace) -> None:
    """Whatever was to stay for a while has stayed so long."""
    uses = keyspace.shard("spec_uses")
    for spec in cast("list[bytes]", client.zrange(uses, 0, -1)):
        client.zadd(uses, {spec.decode(): 1})


def _specs(client: redis.Redis, keyspace: Keyspace) -> set[str]:
    return {name.decode() for name in cast("dict[bytes, bytes]", client.hgetall(keyspace.shard("specs")))}


async def _end(scripts: Scripts, run_id: str, retention_ms: int = 60_000) -> None:
    loaded = await load_run(scripts, run_id)
    await advance_run(scripts, loaded, status="completed")
    assert await scripts.finish(run_id, POOL, b"{}", retention_ms)


async def test_a_spec_without_a_run_goes_after_its_time(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await scripts.keep_spec("r1", "h", b"{}")

    assert await scripts.retire_specs(0, 10) == 0
    _time_passes(plain_redis, keyspace)
    assert await scripts.retire_specs(0, 10) == 1

    assert not _specs(plain_redis, keyspace)
    assert not plain_redis.exists(keyspace.shard("spec_uses"))


async def test_a_spec_stays_until_its_last_run_has_ended_and_been_kept(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for run_id in ("r1", "r2"):
        await create_run(scripts, run_id)
    assert await create_run(scripts, "r2") == "running"  # counts once

    await _end(scripts, "r1", retention_ms=1)
    _time_passes(plain_redis, keyspace)
    assert await scripts.retire_specs(0, 10) == 0
    await _end(scripts, "r2")
    assert not await scripts.finish("r2", POOL, b"{}", 60_000)  # counts once
    assert await scripts.retire_specs(0, 10) == 0
    _time_passes(plain_redis, keyspace)

    assert await scripts.retire_specs(0, 10) == 1
    assert not plain_redis.exists(keyspace.shard("spec_runs"))


async def test_a_run_of_a_release_that_did_not_count_takes_nobody_elses_count(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for run_id in ("old", "new"):
        await create_run(scripts, run_id)
    plain_redis.hdel(keyspace.run("old").run, "counted")
    plain_redis.hset(keyspace.shard("spec_runs"), "h", 1)

    await _end(scripts, "old", retention_ms=1)
    _time_passes(plain_redis, keyspace)

    assert await scripts.retire_specs(0, 10) == 0
    assert _specs(plain_redis, keyspace)


async def test_a_shorter_retention_does_not_shorten_a_longer_one(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for run_id, retention_ms in (("r1", 7_200_000), ("r2", 1)):
        await create_run(scripts, run_id)
        await _end(scripts, run_id, retention_ms)

    until_ms = cast("float", plain_redis.zscore(keyspace.shard("spec_uses"), "h"))
    seconds, _ = plain_redis.time()
    assert until_ms - seconds * 1000 > 7_000_000


async def test_a_spec_that_a_name_points_at_stays(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await scripts.publish_spec("p", "one", b"{}", "1.0")
    await scripts.publish_spec("p", "two", b"{}", "")
    await scripts.publish_spec("p", "three", b"{}", "")
    _time_passes(plain_redis, keyspace)

    assert await scripts.retire_specs(0, 10) == 1

    assert _specs(plain_redis, keyspace) == {"one", "three"}


async def test_a_look_is_a_page_and_what_has_to_stay_does_not_stand_in_its_way(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    await create_run(scripts, "r1", spec_hash="used")
    for number in range(3):
        await scripts.keep_spec("r1", f"h{number}", b"{}")
    _time_passes(plain_redis, keyspace)

    forgotten = [await scripts.retire_specs(0, 2) for _ in range(3)]

    assert sum(forgotten) == 3
    assert _specs(plain_redis, keyspace) == {"used"}


@pytest.mark.parametrize("retired_first", [True, False])
async def test_a_run_that_is_made_while_its_spec_is_forgotten_has_it_or_is_told(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace, *, retired_first: bool
) -> None:
    """The two scripts of one moment, in both orders: there is no run without its spec."""
    terms = {**TERMS, "spec_hash": "h"}
    await scripts.keep_spec("r1", "h", b"{}")
    _time_passes(plain_redis, keyspace)
    makes, forgets = scripts.create_run("r1", **terms), scripts.retire_specs(0, 10)

    calls = (forgets, makes) if retired_first else (makes, forgets)
    answers = [await call for call in calls]

    made, forgotten = answers[::-1] if retired_first else answers
    assert (made, forgotten) == ((SpecNotKept(), 1) if retired_first else (None, 0))
    assert ("h" in _specs(plain_redis, keyspace)) is bool(plain_redis.exists(keyspace.run("r1").run))


async def test_many_submissions_and_looks_at_once_leave_no_run_without_its_spec(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    async def look() -> None:
        _time_passes(plain_redis, keyspace)
        await scripts.retire_specs(0, 100)

    await asyncio.gather(
        *(
            call
            for number in range(20)
            for call in (create_run(scripts, f"r{number}", spec_hash=f"h{number % 5}"), look())
        )
    )

    assert _specs(plain_redis, keyspace) == {f"h{number}" for number in range(5)}


async def test_a_restored_run_needs_its_spec_as_a_new_one_does(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    hashes = ({"run_id": "r1", "spec": "h", "schema": "1"}, {"root": b"{}"}, {"f": b"v"}, {"f": b"v"}, {"f": b"v"})

    assert await scripts.restore("r1", POOL, "h", hashes, []) == SpecNotKept()
    assert not plain_redis.exists(keyspace.run("r1").run)
    await scripts.keep_spec("r1", "h", b"{}")
    assert await scripts.restore("r1", POOL, "h", hashes, []) is True
    _time_passes(plain_redis, keyspace)

    assert await scripts.retire_specs(0, 10) == 0
