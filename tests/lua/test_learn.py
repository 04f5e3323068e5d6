"""What attempts have used, kept for estimates: the last of them, for a time, each once."""

from __future__ import annotations

import redis

from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.scripts import SETTLES_KEPT, Scripts


async def test_the_last_settles_of_a_step_are_kept_for_a_time(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    for number in range(SETTLES_KEPT + 3):
        assert await scripts.learn("flujo.p.s", f"n{number}", {"tokens": number})

    key = keyspace.settles("flujo.p.s")
    kept = {int(field): value for field, value in plain_redis.hgetall(key).items() if field.isdigit()}
    assert len(kept) == SETTLES_KEPT
    assert (kept[2], kept[3]) == (b"tokens=258", b"tokens=3")


async def test_a_settle_is_noted_once(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> None:
    assert await scripts.learn("flujo.p.s", "n", {"tokens": 1})
    assert not await scripts.learn("flujo.p.s", "n", {"tokens": 1})

    assert plain_redis.hget(keyspace.settles("flujo.p.s"), "count") == b"1"
