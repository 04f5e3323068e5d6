"""Every Redis key, made here and nowhere else.

All keys carry the hash tag `{<namespace>:<shard>}`, so that the keys of one script lie on one cluster node. Keys of
a run get a TTL when the run finishes (finish.lua); inboxes get theirs when they are written. Held sets live as
long as their incarnation, which is buried only when its set is empty. The keys in `PERMANENT` stay: each is bounded by
what is alive.
"""

from __future__ import annotations

import functools
import re
import zlib
from dataclasses import dataclass

__all__ = ["CAPABILITY_SET", "LEASE_TTL_MS", "PERMANENT", "POOL", "RUN_ID_PATTERN", "Keyspace", "RunKeys"]

#: The owner of runs that any pool manager may advance.
POOL = "pool"

#: A process, worker or manager, that has not renewed for so many ms is dead.
LEASE_TTL_MS = 2_500

#: How the fields of `capabilities` begin that hold a set of functions; the others name worker processes.
CAPABILITY_SET = "set:"

#: What a run id may be: it stands in keys, messages, logs and task ids.
RUN_ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")

#: Names of the keys per shard that carry no TTL, and why each stays bounded.
PERMANENT = {
    "sweep": "one hash: when somebody swept last, when a manager was seen last, and what Redis was noticed to have lost last",
    "incarnations": "one member per worker process; the sweep removes the dead",
    "alarms": "one member per reminder or end of a pause that nobody has answered; those of runs that ended go when they are due",
    "advances": "one field per living manager: the decisions it stored; removed with the manager",
    "managers": "one member per manager; the sweep removes the dead",
    "dispatches": "one member per dispatch that nobody has leased",
    "published": "one field per member of dispatches",
    "dirty": "one member per run with an outcome not yet applied",
    "intake": "a few fields per queue",
    "cancelled": "one member per run ended within the last hour",
    "deadlines": "one member per run with a deadline ahead; the sweep removes it when it is past",
    "active": "one member per run that has not ended",
    "finished": "one member per run within its retention",
    "unarchived": "one member per run within its retention that no archive has taken",
    "specs": "one field per spec that a run of the shard, or a name, refers to; retire_specs removes the others",
    "spec_uses": "one member per field of specs: until when it stays without runs and names",
    "spec_runs": "one field per spec of which there are runs that have not ended: how many",
    "pipelines": "one field of some 60 bytes per spec ever published, and one per name and version",
    "capabilities": "one field per worker process, removed after it left, and one per set of functions that one had",
    "named": "a few fields per named account and shard, one per hundredth of a sliding window, and one per dispatch that waits",
    "named_queue": "one member per dispatch that waits for a named account, and one per hundredth of a sliding window",
    "named_due": "one member per named account for which somebody waits, or of which a shard has something free",
    "owned": "one member per active run of the owner",
    "layout": "one field: how many shards the namespace has",
}


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of one run. All lie on the run's shard."""

    run: str
    nodes: str
    attempts: str
    accounts: str
    payloads: str
    events: str
    waiters: str


@dataclass(frozen=True, slots=True)
class Keyspace:
    """Makes the keys of one namespace.

    Args:
        namespace: Separates installations that share one Redis.
        shards: Hash slots that the runs spread over: 1 on a single Redis, more on a cluster.
    """

    namespace: str
    shards: int = 1

    def shard_of(self, run_id: str) -> int:
        """The shard that holds a run: it follows from the id alone, so it stays as long as the number of shards does."""
        return zlib.crc32(run_id.encode()) % self.shards

    def home_of(self, account: str) -> int:
        """The shard that lends what a named account has to the others."""
        return zlib.crc32(account.encode()) % self.shards

    def _key(self, shard: int, *parts: str) -> str:
        return ":".join((f"{{{self.namespace}:{shard}}}", *parts))

    def run(self, run_id: str) -> RunKeys:
        """The keys of a run."""
        return _run_keys(self, run_id)

    def shard(self, name: str, shard: int = 0) -> str:
        """A key of `PERMANENT` on a shard."""
        if name not in PERMANENT:
            raise KeyError(name)
        return self._key(shard, name)

    def cache(self, key: str) -> str:
        """The hash of a cached result, or of the right to make it; TTL as the step says."""
        return self._key(zlib.crc32(key.encode()) % self.shards, "cache", key)

    def held(self, incarnation: str, shard: int) -> str:
        """The zset of leases that an incarnation holds, scored by absolute deadline, ms; empty sets vanish."""
        return self._key(shard, "held", incarnation)

    def settles(self, label: str) -> str:
        """The hash of what the last attempts of a step used; TTL 30 days after the last."""
        return self._key(zlib.crc32(label.encode()) % self.shards, "settles", label)

    def fsync(self) -> str:
        """Written to have something to wait for (`durability = acknowledged`); TTL 60 s."""
        return self._key(0, "fsync")

    def queue(self, shard: int) -> str:
        """Stands in the place of the broker's list where scripts may not publish; never written."""
        return self._key(shard, "queue")

    def inbox(self, owner: str, shard: int) -> str:
        """The list of wake-ups of a manager (or of the pool): run ids; TTL 60 s."""
        return self._key(shard, "inbox", owner)

    def archiver(self, shard: int) -> str:
        """The name of the manager that archives finished runs; TTL 5 s."""
        return self._key(shard, "archiver")

    def owned(self, owner: str, shard: int) -> str:
        """The set of active runs that an owner advances; empty sets vanish."""
        return self._key(shard, "owned", owner)


@functools.lru_cache(maxsize=4_096)
def _run_keys(keyspace: Keyspace, run_id: str) -> RunKeys:
    """Every call about a run needs them, several times a step."""
    tag = f"{{{keyspace.namespace}:{keyspace.shard_of(run_id)}}}:run:{run_id}:"
    return RunKeys(
        *(tag + part for part in ("record", "nodes", "attempts", "accounts", "payloads", "events", "waiters"))
    )
