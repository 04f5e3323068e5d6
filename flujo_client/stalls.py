"""Says what a run waits for that does not come by itself: no worker has its step, no manager, an answer. Writes nothing but the log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from flujo_client.inspection import RunInspector
from flujo_client.protocol.errors import FlujoError
from flujo_client.protocol.results import RunStatus
from flujo_client.snapshots import RunSummary, RunWaits

__all__ = ["StallWatch", "reasons_to_wait"]

logger = logging.getLogger(__name__)

#: When a run that somebody waits for is looked at for the first time, s; half as often each time while it stands still.
_FIRST_LOOK_S = 3.0
_MOST_S = 60.0

#: A run in which something has happened within so many ms moves; it is asked no more than that.
_STILL_MS = 2_000

#: Runs that one client looks at, of all that it waits for at once.
_MOST_RUNS = 10


def reasons_to_wait(run: RunSummary, waits: RunWaits) -> list[str]:
    """What a run waits for that does not come by itself, each with what to do. Pure; nothing while it simply takes its time."""
    if run.status.terminal:
        return []
    reasons = [
        asked.message
        if asked.dead
        else f"step '{asked.step}' asks: {' '.join(asked.message.split())}; "
        f"answer with `flujo resume {run.run_id} ANSWER --token {asked.token}`"
        for asked in waits.questions
        if run.status is RunStatus.PAUSED
    ]
    if run.unmanaged:
        reasons.append("no manager serves the pool; start one with `flujo manager`")
    if waits.queued and not waits.workers:
        return [*reasons, "no worker is alive; start one with `flujo worker --pipelines MODULE`"]
    lacking = dict.fromkeys(step.declined for step in waits.queued if step.declined)
    reasons += [
        f"no worker has {what}; start one with `flujo worker --pipelines {_module_of(what)}`" for what in lacking
    ]
    if not lacking:
        reasons += [
            f"no worker serves queue '{name}'; start one with `flujo worker --queues {name}`" for name in waits.unserved
        ]
    paying = dict.fromkeys(step.waits_for for step in waits.queued if step.waits_for)
    return [*reasons, *(f"account {name} is exhausted, see `flujo accounts`" for name in paying)]


def _module_of(declined: str) -> str:
    """The module of what a step needs, where it is told: `fetch (pages:fetch)`."""
    found = re.search(r"\(([\w.]+):", declined)
    return found[1] if found else "MODULE"


class StallWatch:
    """Looks at runs that somebody waits for, and logs as a warning, once each, what they wait for themselves.

    Args:
        inspector: Reads the runs.
    """

    def __init__(self, inspector: RunInspector) -> None:
        self._inspector = inspector
        self._watched = 0

    @contextmanager
    def telling(self, run_id: str) -> Iterator[None]:
        """Look at a run now and then while the block runs; not at all where many others are looked at already."""
        if self._watched >= _MOST_RUNS:
            yield
            return
        self._watched += 1
        over = asyncio.Event()
        looking = asyncio.create_task(self._tell(run_id, over))
        try:
            yield
        finally:
            self._watched -= 1
            over.set()  # redis-py can swallow the cancellation
            looking.cancel()

    async def _tell(self, run_id: str, over: asyncio.Event) -> None:
        told: set[str] = set()
        pause_s = _FIRST_LOOK_S
        while not over.is_set():
            await asyncio.sleep(pause_s)
            reasons = await self.look(run_id)
            pause_s = _FIRST_LOOK_S if reasons is None else min(2 * pause_s, _MOST_S)
            for reason in reasons or ():
                if reason not in told:
                    told.add(reason)
                    logger.warning("run %s waits: %s", run_id, reason, extra={"run_id": run_id})

    async def look(self, run_id: str) -> list[str] | None:
        """What a run waits for that does not come by itself; None while it moves, which two short replies tell.

        Nothing is said while Redis does not answer: whoever waits for the run is told of that.
        """
        try:
            still_ms = await self._inspector.still_ms(run_id)
            if still_ms is None or still_ms < _STILL_MS:
                return None
            return reasons_to_wait(await self._inspector.summary(run_id), await self._inspector.waits(run_id))
        except FlujoError:
            return []
