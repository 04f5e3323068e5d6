"""`Fleet`: what the living workers can run, as they said when they started. A cache of one Redis hash."""

from __future__ import annotations

import asyncio
import time

import pydantic_core

from flujo_client.protocol.keys import CAPABILITY_SET, Keyspace
from flujo_client.protocol.needs import needs_of
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.wire import Commands

__all__ = ["Fleet", "Lacking"]

#: How old the cache may be, s.
_FRESH_S = 1.0

#: What of a pipeline nobody has: step and function of each.
Lacking = tuple[tuple[str, str], ...]


class Fleet:
    """Knows which functions the living workers have.

    Args:
        commands: On the Redis that holds the runs.
        keyspace: Makes the keys.
    """

    def __init__(self, commands: Commands, keyspace: Keyspace) -> None:
        self._commands = commands
        self._keyspace = keyspace
        self._sets: dict[str, frozenset[str]] = {}  # of the living workers, by digest
        self._functions: frozenset[str] | None = None
        self._lacking: dict[
            tuple[str, int], Lacking
        ] = {}  # by spec and top-level node, for as long as `_functions` is fresh
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def lacking(self, spec: PipelineSpec, path: str = "0") -> Lacking:
        """What a run needs from a node on and no living worker has; empty if all is there, or no worker lives.

        Without any worker steps wait in their queues, as for workers that start later.

        Args:
            path: Of the node; what comes before its top-level node is done.
        """
        functions = await self._known()
        if functions is None:
            return ()
        start = int(path.partition("!")[0].partition(".")[0])
        known = (spec.content_hash, start)
        if known not in self._lacking:
            needed = needs_of(spec, start)
            self._lacking[known] = tuple((step, function) for step, function in needed if function not in functions)
        return self._lacking[known]

    async def _known(self) -> frozenset[str] | None:
        async with self._lock:
            if time.monotonic() - self._read_at > _FRESH_S:
                self._functions = await self._read()
                self._lacking.clear()
                self._read_at = time.monotonic()
        return self._functions

    async def _read(self) -> frozenset[str] | None:
        key = self._keyspace.shard("capabilities")
        words = await self._commands.execute("HGETALL", key)
        said = {name.decode(): value for name, value in zip(words[::2], words[1::2], strict=True)}
        seconds, micros = await self._commands.execute("TIME")
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        registered = self._keyspace.shard("incarnations")
        alive = {name.decode() for name in await self._commands.execute("ZRANGEBYSCORE", registered, now_ms, "+inf")}
        workers = {name for name in said if not name.startswith(CAPABILITY_SET)}
        if gone := [name for name in workers - alive if not await self._commands.execute("ZSCORE", registered, name)]:
            await self._commands.execute("HDEL", key, *gone)
        if not alive or not alive <= workers:  # none lives, or one has not said yet what it can run
            return None
        digests = {said[name].decode() for name in alive}
        self._sets = {digest: self._set(said, digest) for digest in digests}
        return frozenset().union(*self._sets.values())

    def _set(self, said: dict[str, bytes], digest: str) -> frozenset[str]:
        known = self._sets.get(digest)
        return frozenset(pydantic_core.from_json(said[f"{CAPABILITY_SET}{digest}"])) if known is None else known
