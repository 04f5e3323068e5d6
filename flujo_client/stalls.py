"""Says what a run waits for that does not come by itself: no worker has its step, no manager, an answer. Writes nothing but the log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from redis.exceptions import RedisError

from flujo_client.inspection import NodeRow, RunInspector, RunSnapshot
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import FlujoError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.results import RunStatus

__all__ = ["StallWatch", "living", "reasons_to_wait", "untaken"]

logger = logging.getLogger(__name__)

#: When a run that somebody waits for is looked at for the first time, s; from then on half as often each time.
_FIRST_LOOK_S = 3.0
_MOST_S = 60.0

#: Runs that one client looks at, of all that it waits for at once: a look reads the whole run.
_MOST_RUNS = 10


async def living(client: RedisClient, keyspace: Keyspace, kind: str, shard: int) -> list[bytes]:
    """The processes of a kind (`incarnations` of workers, `managers`) whose deadline has not passed, by Redis' clock."""
    seconds, micros = await client.time()
    now_ms = seconds * 1000 + micros // 1000
    members: list[bytes] = await client.zrangebyscore(keyspace.shard(kind, shard), now_ms, "+inf")
    return members


async def untaken(client: RedisClient, keyspace: Keyspace, shard: int, run_id: str | None = None) -> Counter[str]:
    """Dispatches by queue, of the queues whose intake has no `latest`: reserve.lua sets it when a worker takes a step.

    Args:
        run_id: Only those of this run.
    """
    members = await client.zrange(keyspace.shard("dispatches", shard), 0, -1)
    words = [member.decode().split(" ") for member in members]
    waiting = Counter(parts[-1] for parts in words if run_id in (None, parts[0]))
    intake = await client.hgetall(keyspace.shard("intake", shard))
    return Counter({queue: count for queue, count in waiting.items() if f"{queue}|latest".encode() not in intake})


def reasons_to_wait(run: RunSnapshot, workers: int, queues: Mapping[str, int]) -> list[str]:
    """What a run waits for that does not come by itself, each with what to do. Pure; nothing while it simply takes its time.

    Args:
        workers: How many are alive.
        queues: Of its dispatches, those from which no worker ever took a step.
    """
    summary = run.summary
    if summary.status.terminal:
        return []
    reasons = [
        f"step '{asked.step}' asks: {' '.join(asked.message.split())}; "
        f"answer with `flujo resume {summary.run_id} ANSWER --token {asked.token}`"
        for asked in summary.questions
        if summary.status is RunStatus.PAUSED
    ]
    if summary.unmanaged:
        reasons.append("no manager serves the pool; start one with `flujo manager`")
    queued = [step for step in run.steps() if _is_queued(step)]
    if queued and not workers:
        return [*reasons, "no worker is alive; start one with `flujo worker --pipelines MODULE`"]
    lacking = dict.fromkeys(step.declined for step in queued if step.declined)
    reasons += [
        f"no worker has {what}; start one with `flujo worker --pipelines {_module_of(what)}`" for what in lacking
    ]
    if not lacking:
        reasons += [
            f"no worker serves queue '{name}'; start one with `flujo worker --queues {name}`" for name in queues
        ]
    paying = dict.fromkeys(step.waits_for for step in run.steps() if step.waits_for)
    return [*reasons, *(f"account {name} is exhausted, see `flujo accounts`" for name in paying)]


def _module_of(declined: str) -> str:
    """The module of what a step needs, where it is told: `fetch (pages:fetch)`."""
    found = re.search(r"\(([\w.]+):", declined)
    return found[1] if found else "MODULE"


def _is_queued(step: NodeRow) -> bool:
    """Whether an attempt of it waits for a worker."""
    return step.status.value == "dispatched" and step.started_ms is None


class StallWatch:
    """Looks at runs that somebody waits for, and logs as a warning, once each, what they wait for themselves.

    Args:
        client: Redis with replies as bytes; owned by the caller.
        keyspace: Makes the keys.
        inspector: Reads the runs.
    """

    def __init__(self, client: RedisClient, keyspace: Keyspace, inspector: RunInspector) -> None:
        self._client = client
        self._keyspace = keyspace
        self._inspector = inspector
        self._watched = 0

    @contextmanager
    def telling(self, run_id: str) -> Iterator[None]:
        """Look at a run now and then while the block runs; not at all where many others are looked at already."""
        if self._watched >= _MOST_RUNS:
            yield
            return
        self._watched += 1
        looking = asyncio.create_task(self._tell(run_id))
        try:
            yield
        finally:
            self._watched -= 1
            looking.cancel()

    async def _tell(self, run_id: str) -> None:
        told: set[str] = set()
        pause_s = _FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_S)
            for reason in await self._reasons(run_id):
                if reason not in told:
                    told.add(reason)
                    logger.warning("run %s waits: %s", run_id, reason, extra={"run_id": run_id})

    async def _reasons(self, run_id: str) -> list[str]:
        shard = self._keyspace.shard_of(run_id)
        try:
            workers = await living(self._client, self._keyspace, "incarnations", shard)
            queues = await untaken(self._client, self._keyspace, shard, run_id)
            return reasons_to_wait(await self._inspector.snapshot(run_id), len(workers), queues)
        except (FlujoError, RedisError, OSError):  # whoever waits for the run is told of a Redis that is away
            return []
