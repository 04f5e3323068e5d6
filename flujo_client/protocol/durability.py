"""`Fsync`: waits until what was written is on Redis' disk, where an installation asks for that before anything is shown.

With `appendfsync everysec` Redis answers before it has fsynced: a machine that fails loses a second or two of what was
answered. `durability = acknowledged` shows a submission, a result or an answer only when WAITAOF (Redis 7.2) says that it lies
on the disk.
"""

from __future__ import annotations

import asyncio

from flujo_client.protocol.errors import ConfigurationError, StateUnavailableError
from flujo_client.protocol.wire import Commands, RedisReplyError

__all__ = ["Fsync"]

_PATIENCE_MS = 4_000


class Fsync:
    """A connection of its own, on which one waits for all: the file is a log, so what was written before is in it too.

    Args:
        commands: Used by nobody else, since waiting blocks it; owned by the caller.
        key: Written before each wait, so that there is something to wait for.
    """

    def __init__(self, commands: Commands, key: str) -> None:
        self._commands = commands
        self._key = key
        self._lock = asyncio.Lock()
        self._begun = self._ended = 0

    async def wait(self) -> None:
        """Return when everything that was answered before this call is on disk. Those who wait at once share a wait.

        Raises:
            ConfigurationError: This Redis cannot tell.
            StateUnavailableError: It did not get there in 4 s; what was written may still be lost.
        """
        ticket = self._begun
        async with self._lock:
            if self._ended > ticket:  # a wait that began after this call has ended
                return
            self._begun += 1
            number = self._begun
            await self._wait_once()
            self._ended = number

    async def _wait_once(self) -> None:
        await self._commands.execute("SET", self._key, "1", "EX", 60)
        try:
            on_disk, _ = await self._commands.execute("WAITAOF", 1, 0, _PATIENCE_MS)
        except RedisReplyError as error:
            raise ConfigurationError(
                f"FLUJO_DURABILITY=acknowledged cannot be kept here: {error}.",
                suggestion="It needs Redis 7.2 or newer with appendonly yes; or set FLUJO_DURABILITY=fast.",
            ) from error
        if not on_disk:
            raise StateUnavailableError(
                f"Redis has not written to its disk for {_PATIENCE_MS} ms.",
                suggestion="Look at its disk; what was asked may be asked again.",
            )

    async def close(self) -> None:
        """Disconnect."""
        await self._commands.close()
