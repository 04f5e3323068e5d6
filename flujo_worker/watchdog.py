"""`LoopWatchdog`: notices, from another thread, that a process' event loop stands still, and ends the process.

An async step that computes without awaiting blocks every other step of its process, and its lease goes on being renewed.
Nothing can interrupt it; so the process leaves, its supervisor starts another, and the step is counted as one that killed
its worker. Its neighbours are not to blame: they are handed over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from flujo_client.protocol.scripts import Scripts
from flujo_worker.attempt import Attempt

__all__ = ["LoopWatchdog"]

logger = logging.getLogger(__name__)

_BEAT_S = 0.2


def _leave() -> None:
    os._exit(1)


class LoopWatchdog:
    """Watches one loop. Made on that loop; `check` is called on another thread's.

    It counts its own checks without a beat between them, not time: a process that was stopped and goes on is not blamed.

    Args:
        checks: Without a beat between them, after which the loop is given up.
        besides: The attempts of the process but for the one of a task; None if that task runs none of them.
        leave: Ends the process at once.
    """

    def __init__(
        self,
        checks: int,
        besides: Callable[[asyncio.Task[Any] | None], Sequence[Attempt] | None],
        leave: Callable[[], None] = _leave,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._checks = checks
        self._besides = besides
        self._leave = leave
        self._beats = self._seen = self._missed = 0
        self._loop.call_soon(self._beat)

    def _beat(self) -> None:
        self._beats += 1
        self._loop.call_later(_BEAT_S, self._beat)

    async def check(self, scripts: Scripts) -> None:
        """Look once.

        Args:
            scripts: On a connection of the calling thread's loop.
        """
        if self._beats != self._seen:
            self._seen, self._missed = self._beats, 0
            return
        self._missed += 1
        if self._missed < self._checks:
            return
        culprit = asyncio.current_task(self._loop)
        innocents = self._besides(culprit)
        logger.critical("the event loop stands still, this process ends: %s\n%s", culprit, _stacks())
        for attempt in innocents or ():
            await scripts.leave(attempt.claim, attempt.meter.used)
        self._leave()


def _stacks() -> str:
    """Where every thread is."""
    return "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())
