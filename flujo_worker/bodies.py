"""`SyncBodies`: runs the sync functions of steps in threads, and counts those that nobody waits for any more."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flujo_worker.attempt import Attempt

__all__ = ["SyncBodies"]

logger = logging.getLogger(__name__)


class SyncBodies:
    """The threads of one process for its sync bodies, and for nothing else.

    A thread cannot be stopped. A body whose attempt ended before it, by a timeout say, is *abandoned*: it keeps its thread
    until it returns. There are twice as many threads as slots, so that no body ever waits for one, and none of its timeout is
    spent on waiting, until as many are abandoned as there are slots. Then the process is of no use and must be replaced.

    Args:
        slots: Attempts at once.
        exhausted: Called on the loop whenever a body is abandoned and so many are already.
    """

    def __init__(self, slots: int, exhausted: Callable[[], None]) -> None:
        self._slots = slots
        self._exhausted = exhausted
        self._executor = ThreadPoolExecutor(2 * slots, thread_name_prefix="flujo-body")
        self._left: set[Future[Any]] = set()

    @property
    def abandoned(self) -> int:
        """How many bodies run on although their attempts have ended."""
        self._left = {body for body in self._left if not body.done()}
        return len(self._left)

    async def run(self, attempt: Attempt, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a sync function of an attempt in a thread, with this task's context variables. Raises what it raises.

        While it runs, `attempt.in_thread` is set. Cancelled, it returns at once and the function runs on, abandoned.
        """
        body = self._executor.submit(contextvars.copy_context().run, _call, function, arguments, named)
        attempt.in_thread = True
        try:
            return await asyncio.wrap_future(body)
        except asyncio.CancelledError:
            if not body.cancel() and not body.done():
                self._abandon(attempt, body)
            raise
        finally:
            attempt.in_thread = False

    def _abandon(self, attempt: Attempt, body: Future[Any]) -> None:
        self._left.add(body)
        abandoned = self.abandoned
        logger.warning(
            "a sync body runs on although its attempt has ended; what it bills from now on is not counted",
            extra={**attempt.ids, "abandoned": abandoned},
        )
        if abandoned >= self._slots:
            logger.error("as many sync bodies hang as this process has slots", extra={"abandoned": abandoned})
            self._exhausted()

    def close(self) -> None:
        """Start no further body; the threads end as they become idle."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return function(*arguments, **named)
    except StopIteration as error:  # no future takes it: whoever awaits the body would wait for ever
        raise RuntimeError("a sync step raised StopIteration") from error
