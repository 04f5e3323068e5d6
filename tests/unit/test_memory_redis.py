"""The Redis of the in-process mode, in what no comparison with a server shows; that is in tests/lua."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from flujo_client.protocol.wire import RedisReplyError
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now_s = 1_764_000_000.25

    def __call__(self) -> float:
        return self.now_s


async def test_another_command_is_an_error_that_names_those_there_are() -> None:
    redis = MemoryRedis(MemoryStore())

    with pytest.raises(RedisReplyError, match=r"unknown command 'GETSET': the in-process store has .*HGET.* only"):
        await redis.execute("GETSET", "key", "value")
    with pytest.raises(RedisReplyError, match="unknown command 'SCRIPT'"):
        await redis.execute("SCRIPT", "KILL")


@pytest.mark.parametrize(
    "words", [("XRANGE", "x", "-", "9-0", "COUNT", 1), ("ZRANGE", "z", 0, 1), ("XADD", "x", "5-0", "a", "b")]
)
async def test_what_the_store_does_not_know_of_a_command_is_refused(words: tuple[str | int, ...]) -> None:
    redis = MemoryRedis(MemoryStore())

    with pytest.raises(RedisReplyError, match="only"):
        await redis.execute(*words)
    assert redis.store.live_keys() == []


async def test_a_key_ends_with_its_time() -> None:
    clock = Clock()
    redis = MemoryRedis(MemoryStore(clock))
    await redis.execute("HSET", "key", "field", 1)
    await redis.execute("PEXPIRE", "key", 1000)
    await redis.execute("HSET", "key", "field", 2)  # keeps its time

    clock.now_s += 0.999
    assert (await redis.hget("key", "field"), redis.store.ttl_ms(b"key")) == (b"2", 1)
    clock.now_s += 0.001

    assert (await redis.exists("key"), redis.store.ttl_ms(b"key"), redis.store.live_keys()) == (0, -2, [])
    await redis.execute("HSET", "key", "field", 3)
    assert redis.store.ttl_ms(b"key") == -1


async def test_ids_of_a_stream_rise_while_the_clock_stands_or_goes_back() -> None:
    clock = Clock()
    redis = MemoryRedis(MemoryStore(clock))

    ids = [await redis.execute("XADD", "x", "*", "a", 1) for _ in range(2)]
    clock.now_s -= 5
    ids.append(await redis.execute("XADD", "x", "*", "a", 1))

    assert ids == [b"1764000000250-0", b"1764000000250-1", b"1764000000250-2"]


async def test_readers_are_woken_by_what_is_appended_to_their_stream_and_by_nothing_else() -> None:
    redis = MemoryRedis(MemoryStore())
    gone, *readers = [asyncio.create_task(redis.xread({"x": "0-0"}, count=5, block=60_000)) for _ in range(3)]
    await asyncio.sleep(0)

    gone.cancel()
    await redis.execute("XADD", "other", "*", "a", 1)
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    entry_id = await redis.execute("XADD", "x", "*", "a", 1)

    assert await asyncio.gather(*readers) == [[(b"x", [(entry_id, {b"a": b"1"})])]] * 2


async def test_a_reader_gets_nothing_when_nothing_came() -> None:
    assert await MemoryRedis(MemoryStore()).xread({"x": "0-0"}, count=5, block=1) == []


async def test_scripts_cannot_reach_python() -> None:
    redis = MemoryRedis(MemoryStore())

    sha = await redis.execute("SCRIPT", "LOAD", "return type(python)")

    assert await redis.execute("EVALSHA", sha, 0) == b"nil"


async def test_a_redis_that_is_let_go_leaves_nothing() -> None:
    redis = MemoryRedis(MemoryStore())
    await redis.execute("SCRIPT", "LOAD", "return redis.call('TIME')")
    kept = weakref.ref(redis.store)

    del redis
    gc.collect()

    assert kept() is None
