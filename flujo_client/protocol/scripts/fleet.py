"""Processes and what they look after: registration, leases, the sweep, messages that are published again."""

from __future__ import annotations

from flujo_client.protocol.replies import (
    Renewal,
    SweepPage,
    WorkerDead,
)
from flujo_client.protocol.scripts.calls import ScriptCalls, pairs_of, text_of

__all__ = ["FleetScripts"]


class FleetScripts(ScriptCalls):
    """Processes and what they look after: registration, leases, the sweep, messages that are published again."""

    async def register(self, kind: str, member: str, ttl_ms: int, shard: int) -> int:
        """Announce a process in `incarnations` or `managers`, or move its deadline on; returns the deadline, Redis ms.

        A process that leaves says so by a negative TTL: whatever it still holds is taken by the next sweep.
        """
        reply = await self._call("register", [self.keyspace.shard(kind, shard)], member, ttl_ms)
        return int(reply[1])

    async def renew(self, incarnation: str, ttl_ms: int, shard: int) -> Renewal | WorkerDead:
        """Move an incarnation's deadline on, and learn what it holds. One that is not buried yet lives again."""
        reply = await self._call(
            "renew",
            [
                self.keyspace.shard("incarnations", shard),
                self.keyspace.held(incarnation, shard),
                self.keyspace.shard("cancelled", shard),
            ],
            incarnation,
            ttl_ms,
        )
        if reply[0] == 0:
            return WorkerDead()
        return Renewal(int(reply[1]), frozenset(map(text_of, reply[2])), frozenset(map(text_of, reply[3])))

    async def bury(self, kind: str, member: str, shard: int) -> bool:
        """Forget a process in `incarnations` or `managers` that is dead and holds no lease, or owns no run, any more.

        False if it lives again or still holds something: the sweep then takes that first.
        """
        holds = self.keyspace.held if kind == "incarnations" else self.keyspace.owned
        reply = await self._call("bury", [self.keyspace.shard(kind, shard), holds(member, shard)], member)
        return bool(reply[0] == 1)

    async def sweep(
        self,
        manager_id: str,
        shard: int,
        *,
        advanced: int,
        period_ms: int,
        gap_ms: int,
        ttl_ms: int,
        stale_ms: int,
        most: int,
    ) -> SweepPage | None:
        """Announce a manager, or move its deadline on, and get a page of what may need mending.

        After more than `gap_ms` in which no manager was seen, every process gets a fresh deadline: Redis stood still.

        Args:
            advanced: How many decisions the manager has stored so far.
            most: Rows of each kind; 0 for no page.

        Returns:
            None if no page was asked for, or another manager got one within the period.
        """
        names = (
            "sweep",
            "incarnations",
            "managers",
            "dispatches",
            "published",
            "dirty",
            "intake",
            "cancelled",
            "finished",
            "advances",
            "unarchived",
            "alarms",
            "named_due",
        )
        keys = [self.keyspace.shard(name, shard) for name in names]
        reply = await self._call("sweep", keys, manager_id, advanced, period_ms, gap_ms, ttl_ms, stale_ms, most)
        if reply[0] == 0:
            return None
        dispatches = []
        for member, published in pairs_of(reply[4]):
            at, copies = text_of(published).split()
            dispatches.append((text_of(member), int(at), int(copies)))
        return SweepPage(
            now_ms=int(reply[1]),
            dead_incarnations=[text_of(member) for member in reply[2]],
            dead_managers=[text_of(member) for member in reply[3]],
            dispatches=dispatches,
            stale_runs=[text_of(run_id) for run_id in reply[5]],
            alarms=[_alarm(member) for member in reply[7]],
            accounts=[text_of(name) for name in reply[8]],
            intake={text_of(field): int(value) for field, value in pairs_of(reply[6])},
        )

    async def redispatch(self, member: str, copies: int, suspect_ms: int) -> int | None:
        """Take the right to publish a dispatch again, and return Redis' time; None if it was leased, another sweep took it, or the run ended."""
        run_id = member.split(" ")[0]
        shard = self.keyspace.shard_of(run_id)
        keys = [self.keyspace.shard("dispatches", shard), self.keyspace.shard("published", shard)]
        keys += [self.keyspace.run(run_id).run, self.keyspace.run(run_id).accounts, *self._named(shard)]
        reply = await self._call("redispatch", keys, member, copies, suspect_ms)
        return int(reply[1]) if reply[0] == 1 else None

    async def look_later(self, member: str, taken_ms: int, copies: int, at_ms: int) -> bool:
        """Have a dispatch that was published again looked at at a time, if nothing has become of it since `redispatch`.

        Args:
            taken_ms: What `redispatch` returned.
            copies: How often it is published by now.

        Returns:
            Whether it was noted; a second time the same.
        """
        shard = self.keyspace.shard_of(member.split(" ")[0])
        keys = [self.keyspace.shard("dispatches", shard), self.keyspace.shard("published", shard)]
        reply = await self._call("look_later", keys, member, f"{taken_ms} {copies}", at_ms)
        return bool(reply[0] == 1)

    async def decline(self, member: str, path: str, attempt: int, step: str, most_ms: int) -> int | None:
        """Give back a dispatch whose step this worker, or every worker, lacks.

        Args:
            most_ms: Of back-off.

        Returns:
            The back-off in ms; None if it is no longer dispatched.
        """
        run_id = member.split(" ")[0]
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "decline",
            [
                keys.attempts,
                self.keyspace.shard("dispatches", shard),
                self.keyspace.shard("published", shard),
                *self._named(shard),
            ],
            member,
            path,
            attempt,
            step,
            most_ms,
        )
        return int(reply[1]) if reply[0] == 1 else None


def _alarm(member: bytes) -> tuple[str, str, str]:
    run_id, path, what = text_of(member).split(" ")
    return run_id, path, what
