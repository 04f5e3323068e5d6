"""`MemoryRedis`: runs the Lua scripts over a `MemoryStore`, and looks to its users like a Redis."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lupa.lua51 import LuaError, LuaRuntime, lua_type

from flujo_client.protocol.wire import RedisReplyError
from flujo_worker.memory_store import MemoryStore, Reply

__all__ = ["MemoryRedis"]


class MemoryRedis:
    """The `Commands` of the in-process mode, and as much of redis-py's client as `RunReader` calls.

    Redis, too, runs its scripts under Lua 5.1. A script is compiled once, when it is loaded. Everything is answered at
    once but `xread`, so nothing needs a lock: use it on one event loop.

    Args:
        store: Holds the data; owned by the caller.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self._scripts: dict[bytes, Any] = {}
        self._lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._lua.globals()[b"python"] = None  # scripts see what they see in Redis
        self._lua.globals()[b"redis"] = self._lua.table_from({b"call": self._called})

    async def execute(self, *words: str | bytes | int) -> Any:
        """See `Commands.execute`."""
        name, *args = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        if name == b"EVALSHA":
            return self._run(*args)
        if name == b"SCRIPT" and args[0] == b"LOAD":
            return self._load(*args[1:])
        return self.store.execute(name, *args)

    async def close(self) -> None:
        """See `Commands.close`: nothing is open."""

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        """As redis-py."""
        return _pairs(await self.execute("HGETALL", key))

    async def hget(self, key: str, field: str) -> bytes | None:
        """As redis-py."""
        value: bytes | None = await self.execute("HGET", key, field)
        return value

    async def hmget(self, key: str, fields: Sequence[str]) -> list[bytes | None]:
        """As redis-py."""
        values: list[bytes | None] = await self.execute("HMGET", key, *fields)
        return values

    def read_hash(self, key: str, fields: Sequence[str]) -> list[bytes | None]:
        """As `hmget`, for code that cannot await it."""
        values: Any = self.store.execute(b"HMGET", key.encode(), *(field.encode() for field in fields))
        return list(values)

    async def exists(self, key: str) -> int:
        """As redis-py."""
        found: int = await self.execute("EXISTS", key)
        return found

    async def xread(
        self, streams: Mapping[str, str], *, count: int, block: int
    ) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
        """As redis-py, of one stream: waits up to `block` ms until there is an entry after the cursor."""
        ((key, cursor),) = streams.items()
        entries = await self.execute("XRANGE", key, f"({cursor}", "+", "COUNT", count)
        if not entries:
            await self._appended(key, block)
            entries = await self.execute("XRANGE", key, f"({cursor}", "+", "COUNT", count)
        return [(key.encode(), [(entry_id, _pairs(words)) for entry_id, words in entries])] if entries else []

    async def _appended(self, key: str, timeout_ms: int) -> None:
        appended = asyncio.Event()
        stop = self.store.listen(key.encode(), appended.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_ms / 1000):
                    await appended.wait()
        finally:
            stop()

    def _load(self, text: bytes) -> bytes:
        sha = hashlib.sha1(text).hexdigest().encode()
        self._scripts[sha] = self._lua.compile(b"local KEYS, ARGV = ... " + text)
        return sha

    def _run(self, sha: bytes, count: bytes, *keys_and_args: bytes) -> Any:
        script, keys = self._scripts.get(sha), int(count)
        if script is None:
            raise RedisReplyError("NOSCRIPT No matching script.")
        try:
            answer = script(
                self._lua.table_from(keys_and_args[:keys]),
                self._lua.table_from(keys_and_args[keys:]),
            )
        except LuaError as error:
            raise RedisReplyError(f"ERR {error}") from error
        return _from_lua(answer)

    def _called(self, *words: Any) -> Any:
        """`redis.call`. What it raises ends the script and comes out of it unchanged."""
        return self._to_lua(self.store.execute(*(word if type(word) is bytes else _number(word) for word in words)))

    def _to_lua(self, reply: Reply) -> Any:
        if isinstance(reply, list):
            return self._lua.table_from([item if type(item) is bytes else self._to_lua(item) for item in reply])
        return False if reply is None else reply


def _number(word: object) -> bytes:
    """A number as Redis takes it from a script."""
    if isinstance(word, bool) or not isinstance(word, int | float):
        raise RedisReplyError("ERR Lua redis lib command arguments must be strings or integers")
    return b"%.17g" % word


def _from_lua(answer: Any) -> Any:
    """A script's answer as Redis gives it: numbers lose their fraction, false is nil, a table ends before its first nil."""
    if lua_type(answer) == "table":
        items = itertools.takewhile(lambda item: item is not None, (answer[place] for place in itertools.count(1)))
        return [_from_lua(item) for item in items]
    if isinstance(answer, bool):
        return 1 if answer else None
    return int(answer) if isinstance(answer, float) else answer


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
