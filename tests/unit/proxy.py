"""A TCP proxy between a client and Redis, which sees every reply and lets through what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Forwards to a port of 127.0.0.1.

    Args:
        target: The port of Redis.
    """

    def __init__(self, target: int) -> None:
        self.connections = 0
        #: How many bytes of the next reply get through before its connection is closed; None: all of them.
        self.cut_after: int | None = None
        #: Whether replies get through at all.
        self.silent = False
        #: Commands wait here while it is not set.
        self.gate = asyncio.Event()
        self.gate.set()
        self._target = target
        self._port = 0
        self._replies = b""
        self._open: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    def move_to(self, target: int) -> None:
        """Forward those who come from now on to another port, as an address that follows a failover does."""
        self._target = target

    async def saw(self, text: bytes) -> None:
        """Wait until Redis has answered with this text."""
        async with self._news:
            await self._news.wait_for(lambda: text in self._replies)

    async def all_closed(self) -> None:
        """Wait until every client has gone."""
        await asyncio.gather(*self._open)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._target)
        upwards = asyncio.create_task(self._forward_commands(reader, to_redis))
        try:
            with suppress(ConnectionError):
                await self._forward_replies(from_redis, writer)
        finally:
            upwards.cancel()
            for end in (writer, to_redis):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()

    async def _forward_commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.gate.wait()
                writer.write(data)
        writer.close()

    async def _forward_replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            async with self._news:
                self._replies += data
                self._news.notify_all()
            if self.silent:
                continue
            if self.cut_after is not None:
                writer.write(data[: self.cut_after])
                self.cut_after = None
                return
            writer.write(data)
