"""A manager as a service: listens for wake-ups, keeps its own deadline, and sweeps what died or got lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError

from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution.redispatch import judge_dispatch
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import BrokerUnavailableError, FlujoError, StateUnavailableError
from flujo_client.protocol.keys import LEASE_TTL_MS, POOL
from flujo_client.protocol.replies import Claim, SweepPage
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
_PAGE = 500
_LISTEN_S = 1

#: Wake-ups that one manager takes at once, so that others get some too.
_SHARE = 8


class ManagerService:
    """Runs a manager until it is stopped.

    Args:
        client: Redis for commands; owned by the caller.
        inbox_wire: A connection of its own for the inbox; owned by the caller.
        manager: Advances the runs.
        state: The runs.
        publisher: Asked for the depth of queues.
        serves_pool: Whether it drives the runs that no living manager owns; if not, those that name it only.

    Attributes:
        manager_id: Its name as an owner; `pool-` and `caller-` tell people, and `flujo runs`, which kind it is.
    """

    def __init__(
        self,
        client: RedisClient,
        inbox_wire: Commands,
        manager: ExecutionManager,
        state: StateManager,
        publisher: Publisher,
        *,
        serves_pool: bool,
    ) -> None:
        self._client = client
        self._inbox_wire = inbox_wire
        self._manager = manager
        self._state = state
        self._publisher = publisher
        self._serves_pool = serves_pool
        self.manager_id = f"{'pool' if serves_pool else 'caller'}-{uuid4().hex[:12]}"
        self._keyspace = state.keyspace

    @property
    def owner(self) -> str:
        """The owner whose runs this manager drives."""
        return POOL if self._serves_pool else self.manager_id

    async def announce(self) -> None:
        """Register as alive. A run may name this manager as its owner from then on."""
        for shard in range(self._keyspace.shards):
            await self._state.scripts.register("managers", self.manager_id, LEASE_TTL_MS, shard)

    async def serve(self) -> None:
        """Listen and sweep until cancelled; then hand the own runs to the pool.

        Redis being away is waited out.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for shard in range(self._keyspace.shards):
                    group.create_task(self._listen(shard))
                    group.create_task(self._watch(shard))
        finally:
            await self._leave()

    async def _listen(self, shard: int) -> None:
        inbox = self._keyspace.inbox(self.owner, shard)
        while True:
            try:
                first = await self._inbox_wire.execute("BLPOP", inbox, _LISTEN_S)
                if first is None:
                    continue
                self._manager.wake(first[1].decode())
                for run_id in await self._inbox_wire.execute("LPOP", inbox, _SHARE) or ():
                    self._manager.wake(run_id.decode())
            except (StateUnavailableError, RedisReplyError) as error:  # a Redis that fails over replies an error
                logger.warning("inbox not read, trying again", extra={"error": str(error)})
                await asyncio.sleep(0.5)

    async def _watch(self, shard: int) -> None:
        while True:
            try:
                await self._state.scripts.register("managers", self.manager_id, LEASE_TTL_MS, shard)
                await self._client.hset(
                    self._keyspace.shard("advances", shard), self.manager_id, self._manager.advanced
                )
                page = await self._state.scripts.sweep(
                    shard,
                    period_ms=_PERIOD_MS - 50,
                    gap_ms=_GAP_MS,
                    ttl_ms=LEASE_TTL_MS,
                    stale_ms=_STALE_MS,
                    most=_PAGE,
                )
                if page is not None:
                    await self._mend(page, shard)
            except (StateUnavailableError, BrokerUnavailableError, RedisError, OSError) as error:
                logger.warning("sweep not finished, trying again", extra={"error": str(error)})
            await asyncio.sleep(_PERIOD_MS / 1000)

    async def _mend(self, page: SweepPage, shard: int) -> None:
        for incarnation in page.dead_incarnations:
            await self._bury(incarnation, shard)
        await self._reclaim_overdue(page, shard)
        for manager_id in page.dead_managers:
            await self._inherit(manager_id, shard)
        for run_id in page.stale_runs:
            await self._one(run_id, self._rouse(run_id, shard))
        await self._publish_lost(page, shard)

    async def _one(self, run_id: str, mending: Awaitable[Any]) -> Any:
        """Mend one run. One that this release cannot read, or a script refuses, holds up no other."""
        try:
            return await mending
        except (StateUnavailableError, BrokerUnavailableError):
            raise
        except (FlujoError, RedisReplyError) as error:
            logger.error("run not mended", extra={"run_id": run_id, "error": str(error)})  # noqa: TRY400 - the error says all
            return None

    async def _bury(self, incarnation: str, shard: int) -> None:
        held = self._keyspace.held(incarnation, shard)
        members = [member.decode() for member in await self._client.zrange(held, 0, _PAGE - 1)]
        await asyncio.gather(*(self._lose(member, incarnation, "died") for member in members))
        if await self._state.scripts.bury("incarnations", incarnation, shard):
            logger.warning("worker process died", extra={"incarnation": incarnation, "leases_lost": len(members)})

    async def _reclaim_overdue(self, page: SweepPage, shard: int) -> None:
        incarnations = [
            name.decode() for name in await self._client.zrange(self._keyspace.shard("incarnations", shard), 0, -1)
        ]
        pipeline = self._client.pipeline(transaction=False)
        for incarnation in incarnations:
            pipeline.zrangebyscore(self._keyspace.held(incarnation, shard), "-inf", page.now_ms, start=0, num=_PAGE)
        for incarnation, members in zip(incarnations, await pipeline.execute(), strict=True):
            for member in members:
                await self._lose(member.decode(), incarnation, "overdue")

    async def _lose(self, member: str, incarnation: str, reason: str) -> None:
        run_id, path, attempt, nonce = member.split(" ")
        claim = Claim(run_id, path, int(attempt), nonce, incarnation, queue="")
        owner = await self._state.owner_of(run_id)
        if await self._one(run_id, self._state.scripts.lose(claim, owner, reason, {})):
            logger.warning("attempt lost", extra={"run_id": run_id, "path": path, "attempt": attempt, "reason": reason})

    async def _inherit(self, manager_id: str, shard: int) -> int:
        """Move a page of the runs of a manager that is gone to the pool; with no pool they wait there. Forget it after the last.

        Returns:
            How many were moved.
        """
        page = await self._client.srandmember(self._keyspace.owned(manager_id, shard), _PAGE)
        adopt = self._state.scripts.adopt
        moved = await asyncio.gather(
            *(self._one(run_id.decode(), adopt(run_id.decode(), manager_id, POOL)) for run_id in page)
        )
        if await self._state.scripts.bury("managers", manager_id, shard):
            await self._client.hdel(self._keyspace.shard("advances", shard), manager_id)
        return sum(map(bool, moved))

    async def _rouse(self, run_id: str, shard: int) -> None:
        """Wake the manager of a run whose wake-up was lost; a run whose owner nobody knows goes to the pool."""
        owner = await self._state.owner_of(run_id)
        if owner == self.owner:
            self._manager.wake(run_id)
            return
        if owner != POOL and await self._client.zscore(self._keyspace.shard("managers", shard), owner) is None:
            await self._state.scripts.adopt(run_id, owner, POOL)
            return
        inbox = self._keyspace.inbox(owner, shard)
        if await self._client.llen(inbox) < _PAGE:
            await self._client.lpush(inbox, run_id)
            await self._client.expire(inbox, 60)

    async def _publish_lost(self, page: SweepPage, shard: int) -> None:
        queues = {member.rsplit(" ", 1)[1] for member, published_ms, _ in page.dispatches if published_ms}
        empty_before = {queue: await self._empty_before(queue, page, shard) for queue in queues}
        waiting: dict[str, float] = {}
        for member, published_ms, copies in page.dispatches:
            queue = member.rsplit(" ", 1)[1]
            latest = page.intake.get(f"{queue}|latest", 0)
            judgement = judge_dispatch(published_ms, copies, latest, empty_before.get(queue))
            if judgement.publish:
                await self._one(member.split(" ")[0], self._manager.redispatch(member, copies, judgement.next_ms))
            else:
                waiting[member] = page.now_ms + judgement.next_ms
        if waiting:
            await self._client.zadd(self._keyspace.shard("dispatches", shard), waiting, xx=True)

    async def _empty_before(self, queue: str, page: SweepPage, shard: int) -> int | None:
        """When the sweep before saw a queue empty, if it is empty now as well; notes what is seen now."""
        field, intake = f"{queue}|empty", self._keyspace.shard("intake", shard)
        if await self._publisher.depth(queue):
            await self._client.hdel(intake, field)
            return None
        await self._client.hset(intake, field, page.now_ms)
        return page.intake.get(field)

    async def _leave(self) -> None:
        """Hand the own runs to the pool. What is left when this breaks off is taken by a sweep, as after a death."""
        await self._manager.settle()
        for shard in range(self._keyspace.shards):
            await self._state.scripts.register("managers", self.manager_id, _GONE_MS, shard)
            while await self._inherit(self.manager_id, shard):
                pass
