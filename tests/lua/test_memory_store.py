"""The store of the in-process mode gives the answers of a real Redis, to commands and to scripts."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.wire import Commands, RedisReplyError, Wire
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore
from tests.conftest import ON_REAL_SERVERS

pytestmark = ON_REAL_SERVERS

Words = tuple[str | int, ...]

COMMANDS: dict[str, Callable[[random.Random], Words]] = {
    "DEL": lambda chance: ("DEL", "h", "z"),
    "EXISTS": lambda chance: ("EXISTS", "s"),
    "EXPIRE": lambda chance: ("EXPIRE", "l", 60),
    "HDEL": lambda chance: ("HDEL", "h", _name(chance), _name(chance)),
    "HGET": lambda chance: ("HGET", "h", _name(chance)),
    "HGETALL": lambda chance: ("HGETALL", "h"),
    "HINCRBY": lambda chance: ("HINCRBY", "h", _name(chance), chance.randrange(-9, 9)),
    "HMGET": lambda chance: ("HMGET", "h", _name(chance), _name(chance)),
    "HSET": lambda chance: ("HSET", "h", _name(chance), chance.randrange(9), _name(chance), chance.choice(["", "x"])),
    "HSET, a value too few": lambda chance: ("HSET", "h", "a", 1, "b"),
    "HSETNX": lambda chance: ("HSETNX", "h", _name(chance), 5),
    "HSTRLEN": lambda chance: ("HSTRLEN", "h", _name(chance)),
    "LPOP": lambda chance: ("LPOP", "l", chance.choice(("1", "3"))),
    "LPUSH": lambda chance: ("LPUSH", "l", _name(chance)),
    "PEXPIRE": lambda chance: ("PEXPIRE", "h", chance.choice([60_000, 0, -1])),
    "SADD": lambda chance: ("SADD", "s", _name(chance), _name(chance)),
    "SREM": lambda chance: ("SREM", "s", _name(chance), _name(chance)),
    "XADD": lambda chance: ("XADD", "x", "*", "kind", _name(chance), "path", chance.randrange(9)),
    "XDEL": lambda chance: ("XDEL", "x", chance.choice(["1-0", "5"])),
    "XRANGE": lambda chance: ("XRANGE", "x", chance.choice(["0-0", "(0-0", "1-0", "(1"]), "+", "COUNT", 5),
    "ZADD": lambda chance: ("ZADD", "z", _score(chance), _name(chance), _score(chance), _name(chance)),
    "ZADD NX": lambda chance: ("ZADD", "z", "NX", _score(chance), _name(chance)),
    "ZADD XX": lambda chance: ("ZADD", "z", "XX", _score(chance), _name(chance)),
    "ZADD XX of one score": lambda chance: ("ZADD", "y", "XX", 0, _name(chance)),
    "ZADD, no number": lambda chance: ("ZADD", "z", "many", "a"),
    "ZRANGE": lambda chance: ("ZRANGE", "z", chance.randint(-4, 3), -1),
    "ZRANGEBYLEX": lambda chance: ("ZRANGEBYLEX", "y", f"[{_name(chance)}", f"({_name(chance)}", "LIMIT", 0, 2),
    "ZADD of one score": lambda chance: ("ZADD", "y", 0, _name(chance), 0, _name(chance)),
    "ZREM of one score": lambda chance: ("ZREM", "y", _name(chance)),
    "ZRANGEBYSCORE": lambda chance: ("ZRANGEBYSCORE", "z", "-inf", _score(chance)),
    "ZRANGEBYSCORE LIMIT": lambda chance: ("ZRANGEBYSCORE", "z", 1, _score(chance), "LIMIT", 1, 2),
    "ZREM": lambda chance: ("ZREM", "z", _name(chance), _name(chance)),
    "ZREMRANGEBYSCORE": lambda chance: ("ZREMRANGEBYSCORE", "z", "-inf", chance.randrange(2)),
    "ZSCORE": lambda chance: ("ZSCORE", "z", _name(chance)),
}

SCRIPTS = {
    "numbers lose their fraction": "return {1, 1.9, -1.9, 2^53 - 1}",
    "a table ends before its first nil": "return {'a', nil, 'b'}",
    "false and true": "return {false, true, {}, {{'x'}, 7}}",
    "nothing": "return",
    "nil of a missing field is false": "return redis.call('HGET', KEYS[1], 'nobody') == false and 'false' or 'other'",
    "a list keeps the places of what is missing": "return redis.call('HMGET', KEYS[1], 'nobody', ARGV[1])[2]",
    "integers are numbers": "return type(redis.call('HSET', KEYS[1], 'other', 'v'))",
    "scores are strings": "redis.call('ZADD', KEYS[2], 1764000000123, 'm') return redis.call('ZSCORE', KEYS[2], 'm')",
    "numbers become strings": "redis.call('HSET', KEYS[1], 'i', 7, 'f', 1.5) return redis.call('HMGET', KEYS[1], 'i', 'f')",
    "time is two strings": "local time = redis.call('TIME') return {type(time[1]), type(time[2]), #time}",
    "a command of another type": "return redis.call('ZSCORE', KEYS[1], 'm')",
    "no string and no number": "return redis.call('HSET', KEYS[1], 'field', true)",
    "an error of Lua": "return nobody.field",
    "no such command": "return redis.call('NOSUCH', KEYS[1])",
}


def _name(chance: random.Random) -> str:
    return chance.choice("abcd")


def _score(chance: random.Random) -> int:
    return chance.choice([0, 1, 2, 1_764_000_000_123])


@pytest.fixture
async def server(each_redis_url: str) -> AsyncIterator[Wire]:
    wire = Wire(each_redis_url)
    yield wire
    await wire.close()


async def _answer(commands: Commands, *words: str | int) -> Any:
    """A reply, or the code of an error; without what differs from one server to another: ids and the order of a hash."""
    try:
        reply = await commands.execute(*words)
    except RedisReplyError as error:
        return "WRONGTYPE" if "WRONGTYPE" in str(error) else str(error).split(" ")[0]  # 6.2 puts ERR before a script's
    match words[0]:
        case "HGETALL":
            return sorted(zip(reply[::2], reply[1::2], strict=True))
        case "XADD":
            return len(reply.split(b"-"))
        case "XRANGE":
            return [fields for _, fields in reply]
    return reply


@pytest.mark.parametrize("seed", range(5))
async def test_random_commands_get_the_same_answers(server: Wire, keyspace: Keyspace, seed: int) -> None:
    chance, memory = random.Random(seed), MemoryRedis(MemoryStore())
    keys = {short: f"{{{keyspace.namespace}:0}}:{short}" for short in "hlsxyz"}
    for _ in range(600):
        name, *words = COMMANDS[chance.choice(list(COMMANDS))](chance)
        if chance.random() < 0.05:
            words[0] = chance.choice("hlsxz")
        count = 2 if name == "DEL" else 1
        sent = (name, *(keys[str(key)] for key in words[:count]), *words[count:])

        assert await _answer(memory, *sent) == await _answer(server, *sent), sent
    await server.execute("DEL", *keys.values())


@pytest.mark.parametrize("case", SCRIPTS)
async def test_scripts_see_and_answer_the_same(server: Wire, keyspace: Keyspace, case: str) -> None:
    memory, answers = MemoryRedis(MemoryStore()), []
    keys = [f"{{{keyspace.namespace}:0}}:{short}" for short in "hz"]
    for commands in (memory, server):
        sha = (await commands.execute("SCRIPT", "LOAD", SCRIPTS[case])).decode()
        await commands.execute("HSET", keys[0], "field", "value")
        answers.append(await _answer(commands, "EVALSHA", sha, 2, *keys, "field"))
    await server.execute("DEL", *keys)

    assert answers[0] == answers[1]


async def test_a_script_that_was_never_loaded_is_unknown(server: Wire) -> None:
    for commands in (MemoryRedis(MemoryStore()), server):
        assert await _answer(commands, "EVALSHA", "0" * 40, 0) == "NOSCRIPT"
