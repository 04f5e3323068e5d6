"""`Sweep`: mends what died or got lost. Each candidate is checked again by the script that mends it, so sweeps may overlap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution.redispatch import judge_dispatch
from flujo_client.protocol.errors import BrokerUnavailableError, FlujoError, StateUnavailableError
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.replies import Claim, SweepPage
from flujo_client.protocol.wire import RedisReplyError
from flujo_client.publisher import Publisher
from flujo_client.state import StateManager

__all__ = ["Sweep"]

logger = logging.getLogger(__name__)

#: Rows of one kind that a sweep takes on.
PAGE = 500

#: How often a manager looks for specs that nobody needs any more, ms.
RETIRE_PERIOD_MS = 60_000


class Sweep:
    """The mending of one shard.

    Args:
        manager: Drives the runs of `owner`.
        state: The runs.
        publisher: Asked for the depth of queues.
        owner: Whose runs the manager drives.
        shard: Of the namespace.
    """

    def __init__(
        self, manager: ExecutionManager, state: StateManager, publisher: Publisher, owner: str, shard: int
    ) -> None:
        self._manager = manager
        self._scripts = state.scripts
        self._state = state
        self._publisher = publisher
        self._owner = owner
        self._shard = shard
        self._keyspace = state.keyspace
        self._specs_due_ms = 0

    async def mend(self, page: SweepPage) -> None:
        """Mend what a page names. Runs that this release cannot read, or that a script refuses, hold up no others.

        Raises:
            StateUnavailableError, BrokerUnavailableError: What is left is in the next page.
        """
        for incarnation in page.dead_incarnations:
            await self._bury(incarnation)
        await self._reclaim_overdue(page)
        for manager_id in page.dead_managers:
            await self.inherit(manager_id)
        await asyncio.gather(*(self._one(run_id, self._rouse(run_id)) for run_id in page.stale_runs))
        await self._end_late_runs(page.now_ms)
        await asyncio.gather(*(self._one(alarm[0], self._ring(*alarm)) for alarm in page.alarms))
        for account in page.accounts:
            self._manager.outbox.call_waiters(account, self._shard)
        await self._publish_lost(page)
        if page.now_ms >= self._specs_due_ms:
            self._specs_due_ms = page.now_ms + RETIRE_PERIOD_MS
            await self._scripts.retire_specs(self._shard, PAGE)

    async def _ring(self, run_id: str, path: str, what: str) -> None:
        """Tell a run that the time of a pause's alarm has come."""
        await self._scripts.ring(run_id, path, what, await self._state.owner_of(run_id))

    async def inherit(self, manager_id: str) -> int:
        """Move a page of the runs of a manager that is gone to the pool; with no pool they wait there. Forget it after the last.

        Returns:
            How many were moved.
        """
        page = await self._execute("SRANDMEMBER", self._keyspace.owned(manager_id, self._shard), PAGE)
        adopt = self._scripts.adopt
        moved = await asyncio.gather(
            *(self._one(run_id.decode(), adopt(run_id.decode(), manager_id, POOL)) for run_id in page)
        )
        if await self._scripts.bury("managers", manager_id, self._shard):
            await self._write("forget_manager", "HDEL", self._key("advances"), manager_id)
        return sum(map(bool, moved))

    async def _one(self, run_id: str, mending: Awaitable[Any]) -> Any:
        try:
            return await mending
        except (StateUnavailableError, BrokerUnavailableError):
            raise
        except (FlujoError, RedisReplyError) as error:
            logger.error("run not mended", extra={"run_id": run_id, "error": str(error)})  # noqa: TRY400 - the error says all
            return None

    async def _bury(self, incarnation: str) -> None:
        members = await self._execute("ZRANGE", self._keyspace.held(incarnation, self._shard), 0, PAGE - 1)
        await asyncio.gather(*(self._lose(member.decode(), incarnation, "died") for member in members))
        if await self._scripts.bury("incarnations", incarnation, self._shard):
            logger.warning("worker process died", extra={"incarnation": incarnation, "leases_lost": len(members)})

    async def _end_late_runs(self, now_ms: int) -> None:
        """Cancel the runs whose deadline is past. One that has ended meanwhile is only taken off the list."""
        late = await self._execute("ZRANGEBYSCORE", self._key("deadlines"), "-inf", now_ms, "LIMIT", 0, PAGE)
        for run_id in (member.decode() for member in late):
            owner = await self._state.owner_of(run_id)
            if await self._one(run_id, self._scripts.cancel(run_id, owner, "its deadline is past")) is None:
                logger.warning("run not ended by its deadline, cancelled", extra={"run_id": run_id})
            await self._write("forget_deadline", "ZREM", self._key("deadlines"), run_id)

    async def _reclaim_overdue(self, page: SweepPage) -> None:
        incarnations = [name.decode() for name in await self._execute("ZRANGE", self._key("incarnations"), 0, -1)]
        await asyncio.gather(*(self._reclaim_from(incarnation, page.now_ms) for incarnation in incarnations))

    async def _reclaim_from(self, incarnation: str, now_ms: int) -> None:
        held = self._keyspace.held(incarnation, self._shard)
        members = await self._execute("ZRANGEBYSCORE", held, "-inf", now_ms, "LIMIT", 0, PAGE)
        await asyncio.gather(*(self._lose(member.decode(), incarnation, "overdue") for member in members))

    async def _lose(self, member: str, incarnation: str, reason: str) -> None:
        run_id, path, attempt, nonce = member.split(" ")
        claim = Claim(run_id, path, int(attempt), nonce, incarnation, queue="")
        owner = await self._state.owner_of(run_id)
        if await self._one(run_id, self._scripts.lose(claim, owner, reason, {})):
            logger.warning("attempt lost", extra={"run_id": run_id, "path": path, "attempt": attempt, "reason": reason})

    async def _rouse(self, run_id: str) -> None:
        """Wake the manager of a run whose wake-up was lost; a run whose owner nobody knows goes to the pool."""
        owner = await self._state.owner_of(run_id)
        if owner == self._owner:
            self._manager.wake(run_id)
            return
        if owner != POOL and await self._execute("ZSCORE", self._key("managers"), owner) is None:
            await self._scripts.adopt(run_id, owner, POOL)
            return
        inbox = self._keyspace.inbox(owner, self._shard)
        if await self._execute("LLEN", inbox) < PAGE:
            await self._write("wake_owner", "LPUSH", inbox, run_id)
            await self._write("bound_inbox", "EXPIRE", inbox, 60)

    async def _publish_lost(self, page: SweepPage) -> None:
        queues = {member.rsplit(" ", 1)[1] for member, published_ms, _ in page.dispatches if published_ms}
        empty_before = {queue: await self._empty_before(queue, page) for queue in queues}
        publishing = []
        waiting: list[str | int] = []
        for member, published_ms, copies in page.dispatches:
            queue = member.rsplit(" ", 1)[1]
            latest = page.intake.get(f"{queue}|latest", 0)
            judgement = judge_dispatch(published_ms, copies, latest, empty_before.get(queue))
            if judgement.publish:
                again = self._manager.outbox.redispatch(member, copies, judgement.next_ms)
                publishing.append(self._one(member.split(" ")[0], again))
            else:
                waiting += [page.now_ms + judgement.next_ms, member]
        if waiting:
            await self._write("look_later", "ZADD", self._key("dispatches"), "XX", *waiting)
        await asyncio.gather(*publishing)

    async def _empty_before(self, queue: str, page: SweepPage) -> int | None:
        """When the sweep before saw a queue empty, if it is empty now as well; notes what is seen now."""
        field = f"{queue}|empty"
        if await self._publisher.depth(queue):
            await self._write("note_messages", "HDEL", self._key("intake"), field)
            return None
        await self._write("note_empty", "HSET", self._key("intake"), field, page.now_ms)
        return page.intake.get(field)

    def _key(self, name: str) -> str:
        return self._keyspace.shard(name, self._shard)

    async def _execute(self, *words: str | int) -> Any:
        return await self._scripts.commands.execute(*words)

    async def _write(self, effect: str, *words: str | int) -> None:
        """A plain command that changes one key; the next sweep makes it again if this process dies before it."""
        failpoint("before", effect)
        await self._execute(*words)
        failpoint("after", effect)
