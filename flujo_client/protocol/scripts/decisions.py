"""A run's way from decision to decision: what its manager reads and stores, and who answers what it asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flujo_client.protocol.messages import SCHEMA_VERSION, Event
from flujo_client.protocol.quota import Amounts
from flujo_client.protocol.replies import (
    Advanced,
    Alarm,
    Answered,
    AnsweredBefore,
    BranchEnd,
    Dispatch,
    Follower,
    Forbidden,
    LoadedRun,
    Overtaken,
    RunInactive,
    Split,
    SplitStale,
)
from flujo_client.protocol.scripts.calls import ScriptCalls, pairs_of, schema_mismatch, text_of

__all__ = ["DecisionScripts"]


class DecisionScripts(ScriptCalls):
    """A run's way from decision to decision: what its manager reads and stores, and who answers what it asks."""

    async def load_run(self, run_id: str, most_events: int, *, with_free: bool = True) -> LoadedRun | None:
        """Read a run for advancing it: None if it is unknown.

        Args:
            with_free: And what the accounts on its events' paths have free: the greater part of the work.

        Raises:
            SchemaMismatchError: A newer release wrote the run.
        """
        keys = self.keyspace.run(run_id)
        reply = await self._call(
            "load_run", [keys.run, keys.nodes, keys.accounts, keys.events], most_events, SCHEMA_VERSION, int(with_free)
        )
        if not reply:
            return None
        if reply[0] == -5:
            raise schema_mismatch(run_id, reply[1])
        record, events, nodes, accounts = reply
        free: dict[str, Amounts] = {}
        for field, amount in pairs_of(accounts):
            account, _, meter = text_of(field).rpartition("|")
            free.setdefault(account, {})[meter] = int(amount)
        return LoadedRun(
            record={text_of(field): text_of(value) for field, value in pairs_of(record)},
            events=[Event.parse(entry_id, fields) for entry_id, fields in events],
            nodes={text_of(path): node for path, node in pairs_of(nodes)},
            free=free,
        )

    async def advance(
        self,
        run: LoadedRun,
        operation: str,
        *,
        applied: str,
        status: str | None,
        error: bytes,
        suspect_ms: int,
        nodes: Mapping[str, bytes],
        splits: Sequence[Split],
        branch_ends: Sequence[BranchEnd],
        dispatches: Sequence[Dispatch],
        opening: bool = False,
        alarms: Sequence[Alarm] = (),
    ) -> Advanced | Overtaken | SplitStale | Forbidden:
        """Store a decision if the run is still as it was loaded. The same operation again: the same answer.

        Args:
            opening: Branches of a split are still to be opened by the decisions that follow: nobody is refused meanwhile.
        """
        run_id = run.record["run_id"]
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        rows: list[Any] = [item for path, node in nodes.items() for item in (path, node)]
        rows += [" ".join(end.chain) for end in branch_ends]
        for split in splits:
            share = split.share
            rows += [split.path, " ".join(split.chain), split.meter, share.total, share.text]
        journalled = [dispatch for dispatch in dispatches if not dispatch.ahead]
        for dispatch in journalled:
            rows += [
                dispatch.path,
                dispatch.attempt,
                dispatch.delay_ms,
                dispatch.queue,
                dispatch.terms or "",
                dispatch.task or b"",
            ]
        reply = await self._call(
            "advance",
            [
                keys.run,
                keys.nodes,
                keys.attempts,
                keys.accounts,
                self.keyspace.shard("dirty", shard),
                self.keyspace.shard("dispatches", shard),
                self.keyspace.shard("published", shard),
                self.keyspace.shard("cancelled", shard),
                keys.waiters,
                keys.events,
                self.keyspace.inbox(run.record["owner"], shard),
                self.keyspace.shard("alarms", shard),
            ],
            run_id,
            operation,
            run.record["revision"],
            run.record["operation"],
            applied,
            status or "",
            error,
            suspect_ms,
            SCHEMA_VERSION,
            len(nodes),
            len(branch_ends),
            len(splits),
            len(journalled),
            int(opening),
            " ".join(f"{alarm.path} {alarm.what} {alarm.at_ms or 0}" for alarm in alarms),
            *rows,
        )
        match reply[0]:
            case 1:
                return Advanced(int(reply[1]), operation, bool(reply[2]), int(reply[3]))
            case 0:
                return Overtaken()
            case -1:
                return Forbidden(text_of(reply[1]))
            case -2:
                return SplitStale(text_of(reply[1]))
            case _:
                raise schema_mismatch(run_id, reply[1])

    async def look_ahead(self, run_id: str, decided: Advanced, followers: Sequence[Follower]) -> bool:
        """Store what commits may go on with by themselves. False, and nothing, if the run has moved on. Again: the same.

        Args:
            decided: How the decision was stored whose followers they are.
        """
        keys, rows = self.keyspace.run(run_id), []
        for follower in followers:
            following = follower.dispatch
            rows += [follower.after, following.path, following.queue, following.terms, following.task, follower.message]
        reply = await self._call("look_ahead", [keys.run, keys.attempts], decided.revision, decided.operation, *rows)
        return bool(reply[0] == 1)

    async def revive(
        self, run_id: str, path: str, attempt: int, owner: str, operation: str, how: str
    ) -> bool | RunInactive:
        """Say what becomes of a step that was given up and waits. The same operation again: the same answer.

        Args:
            path, attempt: Of the step, and of its attempt that was lost last; of a background node 1.
            owner: Manager to wake.
            how: `retry` or `drop`; of a background node `cancel`.

        Returns:
            False if somebody else said so before.
        """
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "revive",
            [
                keys.run,
                keys.attempts,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.inbox(owner, shard),
            ],
            run_id,
            path,
            attempt,
            operation,
            how,
        )
        return RunInactive(text_of(reply[1])) if reply[0] == -1 else bool(reply[0] == 1)

    async def resume(
        self, run_id: str, path: str, owner: str, operation: str, answer: bytes
    ) -> Answered | AnsweredBefore | RunInactive:
        """Store the answer to a pause, also before the pause is committed; the first one wins. The same operation again: the same answer.

        Args:
            path: Of the step that pauses; the pause's token.
            owner: Manager to wake.
        """
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "resume",
            [
                keys.run,
                keys.attempts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.inbox(owner, shard),
            ],
            run_id,
            path,
            operation,
            answer,
        )
        match reply[0]:
            case 1:
                return Answered(text_of(reply[1]))
            case 0:
                return AnsweredBefore(text_of(reply[1]))
            case _:
                return RunInactive(text_of(reply[1]))

    async def ring(self, run_id: str, path: str, what: str, owner: str) -> bool:
        """Tell a run that an alarm of a pause is due, once. False if it is not, was told, or means nothing any more."""
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "ring",
            [
                keys.run,
                keys.attempts,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.shard("alarms", shard),
                self.keyspace.inbox(owner, shard),
            ],
            run_id,
            path,
            what,
        )
        return bool(reply[0] == 1)
