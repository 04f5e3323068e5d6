"""A TCP proxy that delays, drops, or cuts what passes. `python -m tests.faults.proxy PORT TARGET` is one in a process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Link:
    """Forwards to a port of 127.0.0.1, as well as it is told to.

    Attributes:
        delay_s: Added to every chunk, each way.
        up, down: Whether chunks get through to Redis, and back.
        cut_after_send: Connections end as soon as a command has been passed on, before its reply.
    """

    def __init__(self, target: int) -> None:
        self.delay_s = 0.0
        self.up = True
        self.down = True
        self.cut_after_send = False
        self.cuts = 0
        self._target = target
        self._port = 0
        self._open: set[asyncio.Task[None]] = set()

    def url(self, database: int) -> str:
        return f"redis://127.0.0.1:{self._port}/{database}"

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[Link]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def heal(self) -> None:
        """Pass on everything, at once."""
        self.delay_s, self.up, self.down, self.cut_after_send = 0.0, True, True, False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        ways = {
            asyncio.create_task(self._forward(reader, to_redis, upwards=True)),
            asyncio.create_task(self._forward(from_redis, writer, upwards=False)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, to_redis):
                with suppress(OSError):
                    end.close()
                    await end.wait_closed()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upwards: bool) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not (self.up if upwards else self.down):
                    continue  # lost: TCP would send it again, but to a peer that is gone for longer than anyone waits
                writer.write(chunk)
                await writer.drain()
                if upwards and self.cut_after_send:
                    self.cuts += 1
                    return


async def main(port: int, target: int) -> None:
    """Forward until killed."""
    async with Link(target).listening(port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
