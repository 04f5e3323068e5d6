"""`Wire`: one pipelined connection to Redis for the hot path.

Every call of redis-py's asyncio client goes through a pool, a retry loop, time-out tasks and several turns of the event
loop: about 0.4 ms of CPU, at six calls a step the greater part of what a step costs (`make bench`, case a: 5.6 ms with
it). Here a call is one future and a few bytes: calls of the same turn leave in one write, replies are matched in order.
hiredis, by the authors of Redis, parses; redis-py does everything that is not hot, and reads the URL.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from contextlib import ExitStack
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from flujo_client.protocol.errors import StateUnavailableError

__all__ = ["Commands", "RedisReplyError", "Wire"]

_CONNECT_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 5.0
_DELAYS_S = (0.05, 0.2, 0.5)

#: How a Redis that is starting, or that has clients enough, answers everything: as good as no answer, ask again.
_NOT_YET = ("LOADING", "ERR max number of clients reached")

#: How a Redis answers that is no master any more: ask again on a new connection, which finds the new one.
_ELSEWHERE = ("MASTERDOWN", "READONLY ")


class RedisReplyError(Exception):
    """Redis answered a command with an error."""


class Commands(Protocol):
    """Whatever executes Redis commands: a `Wire`, or the Redis of the in-process mode."""

    async def execute(self, *words: str | bytes | int) -> Any:
        """Run a command that may be repeated. Replies as RESP2 gives them: bytes, int, list, None.

        Raises:
            RedisReplyError: Redis answered with an error.
            StateUnavailableError: It did not answer.
        """

    async def close(self) -> None:
        """Disconnect."""


class _Connection(asyncio.Protocol):
    """Matches replies to commands in order. Nobody has it before it is connected.

    Args:
        reply_timeout_s: A connection on which a command waits longer is taken for dead.
    """

    _transport: asyncio.Transport
    _watch: asyncio.TimerHandle

    def __init__(self, reply_timeout_s: float) -> None:
        self._reply_timeout_s = reply_timeout_s
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._unsent_before = 0
        self._moved_at = 0.0
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._check_overdue()

    def send(self, words: tuple[str | bytes | int, ...]) -> asyncio.Future[Any]:
        reply: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((reply, time.monotonic()))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows one-word commands only
        return reply

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self.closed:  # since the command was made, so that connection_lost may have been already
            self._give_up("the connection is closed")
        else:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future, _ = self._waiting.popleft()
            if future.done():  # its caller was cancelled
                continue
            if isinstance(reply, hiredis.ReplyError):
                self._fail(future, str(reply))
            else:
                future.set_result(reply)

    def _fail(self, future: asyncio.Future[Any], text: str) -> None:
        elsewhere = any(word in text for word in _ELSEWHERE)  # 6.2 puts a script's error into a sentence of its own
        if elsewhere:
            self.close()
        future.set_exception((ConnectionError if elsewhere or text.startswith(_NOT_YET) else RedisReplyError)(text))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._watch.cancel()
        self._give_up(str(error or "Redis closed the connection"))

    def _give_up(self, reason: str) -> None:
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(ConnectionError(reason))
        self._waiting.clear()

    def _check_overdue(self) -> None:
        """Close what stands still. A large command that is still leaving does not: its reply is due after it has left."""
        now, unsent = time.monotonic(), self._transport.get_write_buffer_size()
        if unsent != self._unsent_before:
            self._unsent_before, self._moved_at = unsent, now
        if self._waiting and now - max(self._waiting[0][1], self._moved_at) > self._reply_timeout_s:
            self.close()
        self._watch = self._loop.call_later(self._reply_timeout_s / 5, self._check_overdue)

    def close(self) -> None:
        self._transport.abort()
        self.closed = True


class Wire:
    """A connection that reconnects. Commands whose reply was lost are sent again, so they must be idempotent.

    Args:
        url: As redis-py reads it: redis://, rediss:// or unix://, with user, password, database and ssl_* options.
        reply_timeout_s: After this long without a reply the connection is given up and the command sent again.
    """

    def __init__(self, url: str, *, reply_timeout_s: float = _REPLY_TIMEOUT_S) -> None:
        self._reply_timeout_s = reply_timeout_s
        self._options: dict[str, Any] = dict(parse_url(url))
        self._secure = url.startswith("rediss://")
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()

    async def execute(self, *words: str | bytes | int) -> Any:
        """See `Commands.execute`."""
        for delay_s in _DELAYS_S:
            try:
                return await self._try(words)
            except OSError:
                await asyncio.sleep(delay_s)
        try:
            return await self._try(words)
        except OSError as error:
            raise StateUnavailableError(
                f"Redis does not answer: {str(error).rstrip('.')}.",
                suggestion="Check that it is up and reachable; the call may be repeated.",
            ) from error

    async def _try(self, words: tuple[str | bytes | int, ...]) -> Any:
        """Send a command once. Raises `OSError` (as ConnectionError and TimeoutError are) where no answer came."""
        connection = self._connection
        if connection is None or connection.closed:
            connection = await self._connect()
        return await connection.send(words)

    async def _connect(self) -> _Connection:
        async with self._connecting:
            if self._connection is not None and not self._connection.closed:
                return self._connection
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                connection = await self._open()
                with ExitStack() as unless_introduced:
                    unless_introduced.callback(connection.close)
                    await self._introduce(connection)
                    unless_introduced.pop_all()
            self._connection = connection
            return connection

    async def _open(self) -> _Connection:
        loop, options = asyncio.get_running_loop(), self._options
        if "path" in options:
            return (await loop.create_unix_connection(self._make_connection, options["path"]))[1]
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        tls = self._tls() if self._secure else None
        return (await loop.create_connection(self._make_connection, host, port, ssl=tls))[1]

    def _make_connection(self) -> _Connection:
        return _Connection(self._reply_timeout_s)

    async def _introduce(self, connection: _Connection) -> None:
        user, password = self._options.get("username"), self._options.get("password", "")
        try:
            if user or password:
                await connection.send(("AUTH", *((user,) if user else ()), password))
            if self._options.get("db"):
                await connection.send(("SELECT", int(self._options["db"])))
        except RedisReplyError as error:
            raise StateUnavailableError(
                f"Redis refuses this client: {error}.", suggestion="Check user, password and database of the URL."
            ) from error

    def _tls(self) -> ssl.SSLContext:
        """What redis-py makes of the URL's ssl_* options."""
        options = {name: value for name, value in self._options.items() if name.startswith("ssl_")}
        return SSLConnection(**options).ssl_context.get()

    async def close(self) -> None:
        """Disconnect; a later call connects again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
