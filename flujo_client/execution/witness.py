"""`HistoryWitness`: notices that Redis has forgotten what it had answered. Only who is outside of Redis can.

A replica without its master's last writes was promoted, or Redis came back without the tail of its file. What is left is a consistent
earlier moment, and runs go on from it; but what was shown in between may happen and bill again, and people should know.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import pydantic_core

from flujo_client.protocol.wire import Commands

__all__ = ["LOSS", "HistoryWitness", "Loss", "find_loss"]

logger = logging.getLogger(__name__)

#: Fields of the hash `sweep`: the counter that managers move, and the last loss that one of them noticed.
_COUNTER = "witnessed"
LOSS = "loss"

#: Counts that a manager remembers: some five minutes.
_MOST = 600


class Loss(NamedTuple):
    """What Redis forgot: everything that it answered from one moment to another, by the manager's clock.

    Attributes:
        since_ms: None where that lies before all that the manager remembers.
    """

    since_ms: int | None
    until_ms: int


def find_loss(seen: Sequence[tuple[int, int]], count: int) -> Loss | None:
    """What was lost, if a counter that only rises has fallen. Pure.

    Args:
        seen: The counts that were answered so far, and when, ms; oldest first.
        count: The one that is answered now.
    """
    if not seen or count > seen[-1][0]:
        return None
    kept = [at_ms for number, at_ms in seen if number < count]
    return Loss(kept[-1] if kept else None, seen[-1][1])


class HistoryWitness:
    """Moves a counter in Redis and remembers what it was told.

    Args:
        commands: On the Redis that holds the runs.
        key: The hash that holds the counter.
    """

    def __init__(self, commands: Commands, key: str) -> None:
        self._commands = commands
        self._key = key
        self._seen: deque[tuple[int, int]] = deque(maxlen=_MOST)

    async def look(self) -> Loss | None:
        """Count once, and note in Redis what it has lost; losses between two counts go unnoticed.

        Raises:
            StateUnavailableError, RedisReplyError: Look again later; nothing is forgotten here.
        """
        count = int(await self._commands.execute("HINCRBY", self._key, _COUNTER, 1))
        loss = find_loss(self._seen, count)
        if loss is not None:
            logger.critical("Redis has lost what it had answered", extra=loss._asdict())
            await self._commands.execute("HSET", self._key, LOSS, pydantic_core.to_json(loss._asdict()))
            self._seen.clear()
        self._seen.append((count, int(time.time() * 1000)))
        return loss
