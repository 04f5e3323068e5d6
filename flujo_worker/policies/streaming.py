"""`ChunkStream`: what one attempt shows to the run's followers while it runs, gathered into few events."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.replies import Claim, Emission
from flujo_client.protocol.scripts import Scripts

__all__ = ["ChunkStream"]

logger = logging.getLogger(__name__)

#: Text and bytes are gathered for this long, s, or until there is this much of them.
_GATHER_S = 0.05
_GATHER_SIZE = 4096

#: Characters, or bytes, of one event at the most: JSON may make six of one.
_LARGEST_PIECE = 32 * 1024

_RETRY_S = 0.5


class ChunkStream:
    """Emits the chunks of an attempt in order, each once; on a fleet neighbours of one kind, text or bytes, go together.

    Args:
        scripts: On a connection of the attempt's loop.
        codec: Of chunks.
        claim: The attempt.
        most_bytes: Of chunks that a run keeps.
        live: The in-process mode: every chunk goes out as it is.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, claim: Claim, most_bytes: int, *, live: bool) -> None:
        self._scripts = scripts
        self._codec = codec
        self._claim = claim
        self._most_bytes = most_bytes
        self._live = live
        self._sequence = 0
        self._gathered: list[Any] = []
        self._size = 0
        self._sent_at = float("-inf")
        self._lost = False
        self._sending = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None

    async def write(self, chunk: Any) -> None:
        """Emit a chunk, now or within a moment. Waits while Redis is away.

        Raises:
            PayloadError: It cannot be sent.
        """
        if self._live or not isinstance(chunk, str | bytes):
            stored = self._codec.encode_chunk(chunk)
            await self.flush()
            await self._send(stored)
            return
        if self._gathered and type(self._gathered[0]) is not type(chunk):
            await self.flush()
        self._gathered.append(chunk)
        self._size += len(chunk)
        due_s = self._sent_at + _GATHER_S - asyncio.get_running_loop().time()
        if self._size >= _GATHER_SIZE or due_s <= 0:
            await self.flush()
        elif self._timer is None:
            self._timer = asyncio.create_task(self._flush_later(due_s))

    async def flush(self) -> None:
        """Emit what is gathered."""
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        self._timer = None
        chunks, self._gathered, self._size = self._gathered, [], 0
        if chunks:
            whole = type(chunks[0])().join(chunks)
            for start in range(0, len(whole), _LARGEST_PIECE):
                await self._send(self._codec.encode_chunk(whole[start : start + _LARGEST_PIECE]))

    async def _flush_later(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        await self.flush()

    async def _send(self, stored: bytes) -> None:
        async with self._sending:
            self._sequence += 1
            while not self._lost:
                try:
                    emission = await self._scripts.emit(self._claim, self._sequence, stored, self._most_bytes)
                except StateUnavailableError as error:
                    logger.warning("chunk not emitted yet, trying again", extra={"error": str(error)})
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._lost = emission is Emission.LOST
                if emission is not Emission.AGAIN:
                    break
            self._sent_at = asyncio.get_running_loop().time()
