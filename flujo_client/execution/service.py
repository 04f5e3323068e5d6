"""A manager as a service: announces itself, listens for wake-ups, and sweeps.

Everything goes over the wire: redis-py's client can swallow a cancellation while it connects, and a manager that was told
to stop would go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from uuid import uuid4

from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution.sweep import PAGE, Sweep
from flujo_client.execution.witness import HistoryWitness
from flujo_client.protocol.errors import BrokerUnavailableError, StateUnavailableError
from flujo_client.protocol.keys import LEASE_TTL_MS, POOL
from flujo_client.protocol.replies import SweepPage
from flujo_client.protocol.wire import Commands, RedisReplyError
from flujo_client.publisher import Publisher
from flujo_client.state import StateManager

__all__ = ["ManagerService"]

logger = logging.getLogger(__name__)

#: The TTL of a process that leaves: its deadline is past at once.
_GONE_MS = -1

_PERIOD_MS = 500
_GAP_MS = 2_000
_STALE_MS = 1_000
_LISTEN_S = 1

#: Wake-ups that one manager takes at once, so that others get some too.
_SHARE = 8


class ManagerService:
    """Runs a manager until it is stopped.

    Args:
        inbox_wires: A connection of its own for the inbox of each shard, as a read waits on it; owned by the caller.
        manager: Advances the runs.
        state: The runs.
        publisher: Asked for the depth of queues.
        serves_pool: Whether it drives the runs that no living manager owns; if not, those that name it only.

    Attributes:
        manager_id: Its name as an owner; `pool-` and `caller-` tell people, and `flujo runs`, which kind it is.
    """

    def __init__(
        self,
        inbox_wires: Sequence[Commands],
        manager: ExecutionManager,
        state: StateManager,
        publisher: Publisher,
        *,
        serves_pool: bool,
    ) -> None:
        self._inbox_wires = inbox_wires
        self._manager = manager
        self._scripts = state.scripts
        self._serves_pool = serves_pool
        self.manager_id = f"{'pool' if serves_pool else 'caller'}-{uuid4().hex[:12]}"
        self._keyspace = state.keyspace
        commands, shards = state.scripts.commands, range(self._keyspace.shards)
        self._witnesses = [HistoryWitness(commands, self._keyspace.shard("sweep", shard)) for shard in shards]
        self._heard = [0] * self._keyspace.shards
        self._looked = [0] * self._keyspace.shards
        self._sweeps = [Sweep(manager, state, publisher, self.owner, shard) for shard in shards]

    @property
    def owner(self) -> str:
        """The owner whose runs this manager drives."""
        return POOL if self._serves_pool else self.manager_id

    def signs(self) -> Mapping[str, Callable[[], int]]:
        """What shows that the service is of use, for `protocol/health.py`: each shard's inbox is read and looked after again and again.

        A Redis that does not answer is tried again: who knows that is not deaf.
        """
        shards = range(self._keyspace.shards)
        inboxes = {f"inbox {shard}": partial(self._heard.__getitem__, shard) for shard in shards}
        return inboxes | {f"sweep {shard}": partial(self._looked.__getitem__, shard) for shard in shards}

    async def announce(self) -> None:
        """Register as alive. A run may name this manager as its owner from then on."""
        for shard in range(self._keyspace.shards):
            await self._look(shard, most=0)

    async def serve(self) -> None:
        """Listen and sweep until cancelled. Redis being away is waited out."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._keyspace.shards):
                group.create_task(self._listen(shard))
                group.create_task(self._watch(shard))

    async def leave(self) -> None:
        """Hand the own runs to the pool; call it when `serve` has ended.

        What is left when this breaks off is taken by a sweep, as after a death.
        """
        await self._manager.settle()
        for shard, sweep in enumerate(self._sweeps):
            await self._scripts.register("managers", self.manager_id, _GONE_MS, shard)
            while await sweep.inherit(self.manager_id):
                pass

    async def _listen(self, shard: int) -> None:
        inbox, wire = self._keyspace.inbox(self.owner, shard), self._inbox_wires[shard]
        while True:
            self._heard[shard] += 1
            try:
                first = await wire.execute("BLPOP", inbox, _LISTEN_S)
                if first is None:
                    continue
                self._manager.hear(first[1], shard)
                if not self._manager.busy:
                    continue
                for entry in await wire.execute("LPOP", inbox, _SHARE) or ():
                    self._manager.hear(entry, shard)
            except (StateUnavailableError, RedisReplyError) as error:  # a Redis that fails over replies an error
                logger.warning("inbox not read, trying again", extra={"error": str(error)})
                await asyncio.sleep(_PERIOD_MS / 1000)

    async def _watch(self, shard: int) -> None:
        """Sweep in time, whatever there is to mend: a manager that mends is not one that died."""
        mending: asyncio.Task[None] | None = None
        while True:
            self._looked[shard] += 1
            try:
                busy = mending is not None and not mending.done()
                page = await self._look(shard, most=0 if busy else PAGE)
                if page is not None:
                    mending = asyncio.create_task(self._mend(shard, page))
                await self._witnesses[shard].look()
            except (StateUnavailableError, RedisReplyError) as error:
                logger.warning("not swept, trying again", extra={"error": str(error)})
            await asyncio.sleep(_PERIOD_MS / 1000)

    async def _look(self, shard: int, most: int) -> SweepPage | None:
        return await self._scripts.sweep(
            self.manager_id,
            shard,
            advanced=self._manager.advanced,
            period_ms=_PERIOD_MS - 50,
            gap_ms=_GAP_MS,
            ttl_ms=LEASE_TTL_MS,
            stale_ms=_STALE_MS,
            most=most,
        )

    async def _mend(self, shard: int, page: SweepPage) -> None:
        try:
            await self._sweeps[shard].mend(page)
        except (StateUnavailableError, BrokerUnavailableError, RedisReplyError) as error:
            logger.warning("sweep not finished, trying again", extra={"error": str(error)})
