"""The in-process mode's store behind a socket, so that what is tested on real servers is tested on it with the same clients."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from fnmatch import fnmatchcase
from typing import Any, Self

import hiredis

from flujo_client.protocol.wire import RedisReplyError
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore


class MemoryServer:
    """Serves one `MemoryRedis` on a free port, on a thread of its own; and the few commands that only tests send."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self._redis = MemoryRedis(self._store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._on_loop(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0?protocol=2"
        return self

    def __exit__(self, *error: object) -> None:
        self._on_loop(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # transports close their sockets in the turn after they were told to

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        with closing(writer):
            while data := await reader.read(65536):
                parser.feed(data)
                while (words := parser.gets()) is not False:
                    writer.write(await self._answer(words))

    async def _answer(self, words: list[bytes]) -> bytes:
        try:
            return _packed(await self._execute(*words))
        except RedisReplyError as error:
            return b"-%s\r\n" % str(error).encode()

    async def _execute(self, name: bytes, *args: bytes) -> Any:
        match name, args:
            case b"SCRIPT", (b"FLUSH", *_):
                self._redis = MemoryRedis(self._store)
                return 1
            case b"SCAN", (_, b"MATCH", pattern, *_):
                return [b"0", [key for key in self._store.live_keys() if fnmatchcase(key.decode(), pattern.decode())]]
            case b"DUMP", (key,):
                return repr(self._store.value(key)).encode()
            case b"TTL", (key,):
                ttl_ms = self._store.ttl_ms(key)
                return ttl_ms if ttl_ms < 0 else ttl_ms // 1000
            case b"HLEN", (key,):
                return len(await self._redis.execute("HGETALL", key)) // 2
            case b"HEXISTS", (key, field):
                return int(await self._redis.execute("HGET", key, field) is not None)
            case b"ZCARD", (key,):
                return len(await self._redis.execute("ZRANGE", key, 0, -1))
        return await self._redis.execute(name, *args)


def _packed(reply: Any) -> bytes:
    """A reply as RESP2 writes it."""
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%s\r\n" % (len(reply), reply)
    return b"*%d\r\n%s" % (len(reply), b"".join(map(_packed, reply)))
