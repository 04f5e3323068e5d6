"""One typed method per Lua file. The scripts are the only writers of the records; this is the only way to call them.

Every script refuses before its first write and answers a repeated call as it answered the first, so that a call whose
reply was lost may be made again. Refusals are return values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flujo_client.protocol.caller import Script, ScriptCaller, load_script
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import SCHEMA_VERSION, Event
from flujo_client.protocol.quota import Amounts, amounts_text, parse_amounts
from flujo_client.protocol.replies import (
    Advanced,
    Alarm,
    Answered,
    AnsweredBefore,
    Blocked,
    BranchEnd,
    Claim,
    Committed,
    Delayed,
    Dispatch,
    Duplicate,
    Emission,
    Follower,
    Forbidden,
    LeaseLost,
    LoadedRun,
    Overtaken,
    Refusal,
    Renewal,
    Reserved,
    RunInactive,
    SlabLoan,
    SlabOffer,
    SpecNotKept,
    Split,
    SplitStale,
    SweepPage,
    UnknownAccount,
    WorkerDead,
)

__all__ = ["Scripts"]


_NAMES = (
    "adopt advance bury cache_look cache_store call_waiters cancel commit create_run decline define_account drop_account "
    "emit extend finish hold_back keep_spec learn leave lend_slab load_run look_ahead lose offer_slab "
    "publish_spec redispatch refuse_run register renew reserve restore "
    "resume retire_specs revive ring stash sweep take_slab"
)

#: What emit.lua replies.
_EMISSIONS = {
    0: Emission.LOST,
    1: Emission.APPENDED,
    2: Emission.APPENDED,
    3: Emission.AGAIN,
    4: Emission.GAP,
}


#: No lease lasts longer than an hour, and a worker that slept over it may still bring its bill, ms. After that nobody asks
#: for the attempts of a run that has ended, which are most of what it keeps beside its values.
LATE_MS = 2 * 3_600_000


#: How long a spec stays that no run has and no name points at, ms; and how often one that has to stay is looked at.
SPEC_KEPT_MS = 3_600_000


#: Settles of a step from which its estimate is learned, and how long they are kept after the last, ms.
SETTLES_KEPT = 256
SETTLES_TTL_MS = 30 * 86_400_000


class Scripts:
    """The scripts, bound to a Redis and a namespace.

    Args:
        caller: Sends the calls.
        keyspace: Makes the keys.
    """

    def __init__(self, caller: ScriptCaller, keyspace: Keyspace) -> None:
        self._caller = caller
        self.commands = caller.commands
        self.keyspace = keyspace
        self._scripts: dict[str, Script] = {name: load_script(name) for name in _NAMES.split()}

    async def _call(self, name: str, keys: Sequence[str], *args: Any) -> list[Any]:
        failpoint("before", name)
        reply: list[Any] = await self._caller.call(self._scripts[name], keys, args)
        failpoint("after", name)
        return reply

    async def create_run(
        self,
        run_id: str,
        *,
        fingerprint: str,
        owner: str,
        spec_hash: str,
        pipeline: str,
        input_payload: bytes,
        context_payload: bytes,
        limits: Mapping[str, int],
        traceparent: str,
        metadata: bytes,
        deadline_ms: int | None = None,
        accounts: Sequence[str] = (),
        step_accounts: Sequence[str] = (),
    ) -> str | UnknownAccount | SpecNotKept | None:
        """Store a new run and wake its owner.

        Args:
            deadline_ms: From now, in Redis time; None for none.
            accounts: Named accounts that pay for it, besides those whose rules name its pipeline.
            step_accounts: Named accounts of its steps, which must be defined as well.

        Returns:
            None if it is new; the stored status if the same run exists; "conflict" if another run has the id.
        """
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "create_run",
            [
                keys.run,
                keys.accounts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.owned(owner, shard),
                self.keyspace.inbox(owner, shard),
                *(self.keyspace.shard(name, shard) for name in ("active", "deadlines", "named", "specs", "spec_runs")),
            ],
            run_id,
            fingerprint,
            owner,
            spec_hash,
            pipeline,
            input_payload,
            context_payload,
            amounts_text(limits),
            traceparent,
            SCHEMA_VERSION,
            metadata,
            "" if deadline_ms is None else deadline_ms,
            " ".join(accounts),
            " ".join(step_accounts),
        )
        if reply[0] == -2:
            return UnknownAccount(_text(reply[1]))
        if reply[0] == -3:
            return SpecNotKept()
        return {1: None, -1: "conflict"}[reply[0]] if reply[0] else _text(reply[1])

    async def refuse_run(
        self, run_id: str, pipeline: str, error: bytes, result: bytes, traceparent: str, retention_ms: int
    ) -> bool:
        """Store a refused submission as a run that failed. False if a run has its id.

        Args:
            error: Its envelope.
            result: A `PipelineResult` as JSON, as `finish` takes it.
        """
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        finished = self.keyspace.shard("finished", shard)
        reply = await self._call(
            "refuse_run",
            [keys.run, keys.payloads, finished],
            run_id,
            pipeline,
            error,
            result,
            traceparent,
            SCHEMA_VERSION,
            retention_ms,
        )
        return bool(reply[0] == 1)

    async def reserve(
        self, claim: Claim, owner: str
    ) -> Reserved | Duplicate | RunInactive | WorkerDead | Blocked | Refusal | Delayed:
        """Claim an attempt, lease it and reserve its estimate in one step. The same nonce again: the same answer.

        Args:
            claim: The attempt, and who claims it.
            owner: Manager whose inbox is woken if the budget refuses.

        Raises:
            SchemaMismatchError: A newer release wrote the run.
        """
        keys, shard = self.keyspace.run(claim.run_id), self.keyspace.shard_of(claim.run_id)
        reply = await self._call(
            "reserve",
            [
                keys.run,
                keys.attempts,
                keys.accounts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.shard("dispatches", shard),
                self.keyspace.shard("published", shard),
                self.keyspace.shard("intake", shard),
                self.keyspace.shard("incarnations", shard),
                self.keyspace.held(claim.incarnation, shard),
                self.keyspace.inbox(owner, shard),
                keys.waiters,
                *self._named(shard),
            ],
            claim.run_id,
            claim.path,
            claim.attempt,
            claim.nonce,
            claim.incarnation,
            SCHEMA_VERSION,
            claim.queue,
        )
        match reply[0]:
            case 1:
                task, owner, traceparent, deadline_ms, remaining, *payloads = reply[1:]
                left = parse_amounts(_text(remaining))
                return Reserved(task, _text(owner), _text(traceparent), int(deadline_ms), left, payloads)
            case 0:
                return Duplicate()
            case -1:
                return RunInactive(_text(reply[1]))
            case -2:
                return Blocked(_text(reply[1]), _text(reply[2]), int(reply[3]), int(reply[4]))
            case -3:
                return WorkerDead()
            case -4:
                return _refusal(reply)
            case -6:
                return _delay(reply)
            case _:
                raise _schema_mismatch(claim.run_id, reply[1])

    async def extend(
        self, claim: Claim, counter: int, amounts: Mapping[str, int]
    ) -> Refusal | Delayed | LeaseLost | None:
        """Add to a held reservation, all meters or none; once per counter, which rises by one per extension."""
        keys = self.keyspace.run(claim.run_id)
        reply = await self._call(
            "extend",
            [keys.attempts, keys.accounts, *self._named(self.keyspace.shard_of(claim.run_id))],
            claim.path,
            claim.nonce,
            counter,
            amounts_text(amounts),
        )
        if reply[0] == 1:
            return None
        if reply[0] == -6:
            return _delay(reply)
        return LeaseLost() if reply[0] == 0 else _refusal(reply)

    async def commit(
        self,
        claim: Claim,
        owner: str,
        *,
        kind: str,
        usage: Mapping[str, int],
        output: bytes,
        result: bytes,
        context: bytes,
        context_form: str,
        data: bytes,
        broker_list: str = "",
    ) -> Committed | LeaseLost | RunInactive:
        """Settle the claim's budget and store its outcome. The same nonce again changes nothing and answers the same.

        Args:
            owner: Manager to wake.
            kind: `succeeded` or `failed`.
            usage: What was really used, by meter.
            output: Payload; b"" for none.
            result: JSON of the `StepResult` without its output.
            context: Payload of the context's snapshot or delta, as `context_form` says; b"" if it did not change.
            data: JSON for the event.
            broker_list: Of the attempt's queue, where it may be gone by what was decided ahead: the broker is this Redis. Else "".
        """
        keys, shard = self.keyspace.run(claim.run_id), self.keyspace.shard_of(claim.run_id)
        reply = await self._call(
            "commit",
            [
                keys.run,
                keys.attempts,
                keys.accounts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.held(claim.incarnation, shard),
                self.keyspace.inbox(owner, shard),
                keys.waiters,
                self.keyspace.shard("dispatches", shard),
                self.keyspace.shard("published", shard),
                *self._named(shard),
                broker_list or self.keyspace.queue(shard),
            ],
            claim.run_id,
            claim.path,
            claim.attempt,
            claim.nonce,
            kind,
            amounts_text(usage),
            output,
            result,
            context,
            context_form,
            data,
            int(bool(broker_list)),
        )
        if reply[0] == 1:
            return Committed(parse_amounts(_text(reply[1])))
        return LeaseLost() if reply[0] == 0 else RunInactive(_text(reply[1]))

    async def lose(self, claim: Claim, owner: str, reason: str, usage: Mapping[str, int]) -> bool:
        """Give up a claim: `died`, `overdue`, `stranger` (never started here) or `handed_over`.

        Args:
            usage: What is known to be spent; counts where no late bill can follow, which is after a hand-over.

        Returns:
            Whether the claim is lost by this call; False if it is not held, or the reason no longer holds.
        """
        keys, shard = self.keyspace.run(claim.run_id), self.keyspace.shard_of(claim.run_id)
        reply = await self._call(
            "lose",
            [
                keys.run,
                keys.attempts,
                keys.accounts,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.held(claim.incarnation, shard),
                self.keyspace.shard("incarnations", shard),
                self.keyspace.inbox(owner, shard),
                keys.waiters,
                self.keyspace.shard("dispatches", shard),
                self.keyspace.shard("published", shard),
                *self._named(shard),
            ],
            claim.run_id,
            claim.path,
            claim.attempt,
            claim.nonce,
            claim.incarnation,
            reason,
            amounts_text(usage),
        )
        return bool(reply[0] == 1)

    async def leave(self, claim: Claim, usage: Mapping[str, int]) -> bool:
        """Note that this process is about to end under a body that it cannot stop; called last, while the lease is renewed.

        The lease stays, so that the body runs nowhere else before this process has ended. Whoever then finds the process
        dead gives the claim up as handed over.

        Args:
            usage: What is known to be spent.

        Returns:
            False if the claim is not held any more.
        """
        keys = self.keyspace.run(claim.run_id)
        reply = await self._call("leave", [keys.attempts], claim.nonce, amounts_text(usage))
        return bool(reply[0] == 1)

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
            raise _schema_mismatch(run_id, reply[1])
        record, events, nodes, accounts = reply
        free: dict[str, Amounts] = {}
        for field, amount in _pairs(accounts):
            account, _, meter = _text(field).rpartition("|")
            free.setdefault(account, {})[meter] = int(amount)
        return LoadedRun(
            record={_text(field): _text(value) for field, value in _pairs(record)},
            events=[Event.parse(entry_id, fields) for entry_id, fields in events],
            nodes={_text(path): node for path, node in _pairs(nodes)},
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
                return Forbidden(_text(reply[1]))
            case -2:
                return SplitStale(_text(reply[1]))
            case _:
                raise _schema_mismatch(run_id, reply[1])

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

    async def finish(self, run_id: str, owner: str, result: bytes, retention_ms: int) -> bool:
        """Store a terminal run's result and start its retention. False if it was done before, or the run has not ended."""
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "finish",
            [
                keys.run,
                keys.nodes,
                keys.attempts,
                keys.accounts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.shard("active", shard),
                self.keyspace.shard("finished", shard),
                self.keyspace.owned(owner, shard),
                self.keyspace.shard("unarchived", shard),
                self.keyspace.shard("spec_runs", shard),
                self.keyspace.shard("spec_uses", shard),
            ],
            run_id,
            result,
            retention_ms,
            LATE_MS,
        )
        return bool(reply[0] == 1)

    async def restore(
        self,
        run_id: str,
        owner: str,
        spec_hash: str,
        hashes: Sequence[Mapping[str, str | bytes]],
        events: Sequence[tuple[str, str, int, str]],
    ) -> bool | SpecNotKept:
        """Store a run with everything it had, and wake its owner. False if there is a run of this id.

        Args:
            spec_hash: Of its pipeline.
            hashes: The record, nodes, attempts, accounts and payloads, each by field.
            events: What happens next: kind, path, attempt and reason of each.
        """
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "restore",
            [
                keys.run,
                keys.nodes,
                keys.attempts,
                keys.accounts,
                keys.payloads,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.owned(owner, shard),
                self.keyspace.inbox(owner, shard),
                self.keyspace.shard("active", shard),
                self.keyspace.shard("specs", shard),
                self.keyspace.shard("spec_runs", shard),
            ],
            run_id,
            *(len(fields) for fields in hashes),
            len(events),
            spec_hash,
            *(word for fields in hashes for pair in fields.items() for word in pair),
            *(word for event in events for word in event),
        )
        return SpecNotKept() if reply[0] == -3 else bool(reply[0] == 1)

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
        return Renewal(int(reply[1]), frozenset(map(_text, reply[2])), frozenset(map(_text, reply[3])))

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
        for member, published in _pairs(reply[4]):
            at, copies = _text(published).split()
            dispatches.append((_text(member), int(at), int(copies)))
        return SweepPage(
            now_ms=int(reply[1]),
            dead_incarnations=[_text(member) for member in reply[2]],
            dead_managers=[_text(member) for member in reply[3]],
            dispatches=dispatches,
            stale_runs=[_text(run_id) for run_id in reply[5]],
            alarms=[_alarm(member) for member in reply[7]],
            accounts=[_text(name) for name in reply[8]],
            intake={_text(field): int(value) for field, value in _pairs(reply[6])},
        )

    async def redispatch(self, member: str, copies: int, suspect_ms: int) -> bool:
        """Take the right to publish a dispatch again; False if it was leased, another sweep took it, or the run ended."""
        run_id = member.split(" ")[0]
        shard = self.keyspace.shard_of(run_id)
        keys = [self.keyspace.shard("dispatches", shard), self.keyspace.shard("published", shard)]
        keys += [self.keyspace.run(run_id).run, self.keyspace.run(run_id).accounts, *self._named(shard)]
        reply = await self._call("redispatch", keys, member, copies, suspect_ms)
        return bool(reply[0] == 1)

    async def cancel(self, run_id: str, owner: str, reason: str) -> str | None:
        """Close a run's gate. None if it is cancelled (now or before); its status if it had ended, `unknown` if there is none."""
        return await self._close_gate(run_id, owner, reason, "cancelled")

    async def abort(self, run_id: str, owner: str, reason: str) -> str | None:
        """Close a run's gate because its own code says so; see `cancel`."""
        return await self._close_gate(run_id, owner, reason, "aborted")

    async def _close_gate(self, run_id: str, owner: str, reason: str, ending: str) -> str | None:
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "cancel",
            [
                keys.run,
                keys.events,
                self.keyspace.shard("dirty", shard),
                self.keyspace.shard("cancelled", shard),
                self.keyspace.inbox(owner, shard),
                keys.attempts,
                keys.accounts,
                keys.waiters,
            ],
            run_id,
            reason,
            ending,
        )
        return None if reply[0] >= 0 else _text(reply[1])

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
        return RunInactive(_text(reply[1])) if reply[0] == -1 else bool(reply[0] == 1)

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
                return Answered(_text(reply[1]))
            case 0:
                return AnsweredBefore(_text(reply[1]))
            case _:
                return RunInactive(_text(reply[1]))

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

    async def adopt(self, run_id: str, old_owner: str, new_owner: str) -> bool:
        """Move a run from an owner that is gone. False if somebody else has it, or the owner lives."""
        keys, shard = self.keyspace.run(run_id), self.keyspace.shard_of(run_id)
        reply = await self._call(
            "adopt",
            [
                keys.run,
                self.keyspace.owned(old_owner, shard),
                self.keyspace.owned(new_owner, shard),
                self.keyspace.shard("managers", shard),
                self.keyspace.shard("dirty", shard),
                self.keyspace.inbox(new_owner, shard),
            ],
            run_id,
            old_owner,
            new_owner,
        )
        return bool(reply[0] == 1)

    async def emit(self, claim: Claim, sequence: int, chunk: bytes, most_bytes: int) -> Emission:
        """Append a chunk of a running step's stream, once per sequence number.

        Args:
            chunk: As `payloads.PayloadCodec.encode_chunk` makes it.
            most_bytes: Of chunks that the run keeps.
        """
        keys = self.keyspace.run(claim.run_id)
        reply = await self._call(
            "emit",
            [keys.run, keys.attempts, keys.events],
            claim.path,
            claim.attempt,
            claim.nonce,
            sequence,
            chunk,
            most_bytes,
        )
        return _EMISSIONS[int(reply[0])]

    async def stash(self, claim: Claim, field: str, first: int, payloads: Sequence[bytes]) -> bool:
        """Store payloads of a running attempt, `<field>.<number>` from the first number on. False if the lease is lost."""
        keys = self.keyspace.run(claim.run_id)
        reply = await self._call("stash", [keys.attempts, keys.payloads], claim.nonce, field, first, *payloads)
        return bool(reply[0] == 1)

    async def cache_look(self, key: str, lease: str, lease_ms: int) -> tuple[bytes, bytes] | int | None:
        """Look a result up: (value, context); or how long somebody else still makes it, ms; None: it is the caller's to make."""
        reply = await self._call("cache_look", [self.keyspace.cache(key)], lease, lease_ms)
        match reply[0]:
            case 1:
                return reply[1], reply[2]
            case 0:
                return int(reply[1])
            case _:
                return None

    async def cache_store(self, key: str, lease: str, value: bytes, context: bytes, ttl_ms: int) -> bool:
        """Keep what was made, or give up the right to make it (b""). False if the right is somebody else's."""
        reply = await self._call("cache_store", [self.keyspace.cache(key)], lease, value, context, ttl_ms)
        return bool(reply[0] == 1)

    async def learn(self, label: str, nonce: str, usage: Mapping[str, int]) -> bool:
        """Note what a step's attempt used. False if that was noted just before."""
        key = self.keyspace.settles(label)
        reply = await self._call("learn", [key], nonce, amounts_text(usage), SETTLES_KEPT, SETTLES_TTL_MS)
        return bool(reply[0] == 1)

    async def publish_spec(self, name: str, spec_hash: str, spec: bytes, version: str = "") -> bool:
        """Store a spec; the name's pointer moves to it if it is new. Returns whether the name points at it."""
        keys = [self.keyspace.shard(key) for key in ("specs", "pipelines", "spec_uses")]
        reply = await self._call("publish_spec", keys, name, spec_hash, spec, version, SPEC_KEPT_MS)
        return bool(reply[0] == 1)

    async def keep_spec(self, run_id: str, spec_hash: str, spec: bytes) -> None:
        """Store a spec where a run of it is about to be, for an hour if none comes."""
        shard = self.keyspace.shard_of(run_id)
        keys = [self.keyspace.shard(name, shard) for name in ("specs", "spec_uses")]
        await self._call("keep_spec", keys, spec_hash, spec, SPEC_KEPT_MS)

    async def retire_specs(self, shard: int, most: int) -> int:
        """Forget specs that no run and no name needs; returns how many.

        Args:
            most: To look at; the others are for the next call.
        """
        keys = [self.keyspace.shard(name, shard) for name in ("specs", "spec_uses", "spec_runs", "pipelines")]
        reply = await self._call("retire_specs", keys, most, SPEC_KEPT_MS)
        return int(reply[1])

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

    def _named(self, shard: int) -> list[str]:
        return [self.keyspace.shard(name, shard) for name in ("named", "named_queue", "named_due")]

    async def define_account(
        self, name: str, definition: str, calendar: Sequence[int], pipelines: Sequence[str], shard: int = 0
    ) -> None:
        """Define a named account, or define it anew; see lua/_named.lua for the words."""
        starts = " ".join(map(str, calendar))
        await self._call(
            "define_account", self._named(shard), name, definition, starts, " ".join(pipelines), self.keyspace.shards
        )

    async def drop_account(self, name: str, shard: int = 0) -> bool:
        """Forget a named account: it limits nobody any more. False if there is none."""
        reply = await self._call("drop_account", self._named(shard), name, self.keyspace.shards)
        return bool(reply[0] == 1)

    async def hold_back(self, name: str, delay_ms: int, shard: int = 0) -> int | None:
        """Let nobody in by a named account for a while; returns until when, Redis ms. None if there is no such account."""
        keys = [self.keyspace.shard("named", shard), self.keyspace.shard("named_due", shard)]
        reply = await self._call("hold_back", keys, name, delay_ms)
        return int(reply[1]) if reply[0] == 1 else None

    async def hold_back_everywhere(self, name: str, delay_ms: int) -> int | None:
        """As `hold_back` on every shard, each by its own clock; returns the latest of them."""
        shards = range(self.keyspace.shards)
        until = [at for shard in shards if (at := await self.hold_back(name, delay_ms, shard)) is not None]
        return max(until, default=None)

    async def call_waiters(self, name: str, most: int, shard: int = 0) -> list[str]:
        """Let those who wait for a named account go on whom it can pay for now, by age; they are journalled.

        Returns:
            Their dispatches, "run path attempt queue", to be published. As many as `most`: there may be more.
        """
        keys = [*self._named(shard), self.keyspace.shard("dispatches", shard), self.keyspace.shard("published", shard)]
        reply = await self._call("call_waiters", keys, name, most)
        return [_text(member) for member in reply[1:]]

    async def offer_slab(
        self, name: str, shard: int, seen: int, kept: Mapping[str, int], share: Mapping[str, int]
    ) -> SlabOffer | None:
        """Begin a shard's transfer with the home of a named account, or go on with the one under way.

        Args:
            seen: The last transfer of the shard that the home is known to have seen.
            kept: What stays free on the shard if nobody waits there.
            share: What it may hold if others ask in vain; empty if none do.

        Returns:
            None if there is nothing to move.
        """
        args = (name, seen, amounts_text(kept), amounts_text(share))
        reply = await self._call("offer_slab", self._named(shard), *args)
        if reply[0] == 0:
            return None
        holds, least, needs = (parse_amounts(_text(amounts)) for amounts in reply[3:6])
        return SlabOffer(int(reply[1]), int(reply[2]), holds, least, needs)

    async def lend_slab(
        self, name: str, shard: int, offer: SlabOffer, most: Mapping[str, int], vain_ms: int
    ) -> SlabLoan | int | None:
        """At an account's home: note what a shard holds, and lend it what it needs at least and `most` at most, or nothing.

        Args:
            vain_ms: How long others mind that it asked in vain.

        Returns:
            The last transfer that the home has seen, if that was a later one; None if its window is another.
        """
        held, least = amounts_text(offer.holds), amounts_text(offer.least)
        args = (
            name,
            shard,
            offer.transfer,
            offer.window,
            held,
            least,
            amounts_text(most),
            self.keyspace.shards,
            vain_ms,
        )
        reply = await self._call("lend_slab", self._named(self.keyspace.home_of(name)), *args)
        match reply[0]:
            case 1 | 2:
                lenders = tuple(map(int, _text(reply[2]).split()))
                return SlabLoan(parse_amounts(_text(reply[1])), lenders, repeated=reply[0] == 2)
            case 0:
                return int(reply[1])
            case _:
                return None

    async def take_slab(self, name: str, shard: int, transfer: int, granted: Mapping[str, int], dry_ms: int) -> bool:
        """On a shard: end a transfer. False if that one is not under way.

        Args:
            dry_ms: How long more is not to be had; 0 if nobody asked in vain.
        """
        key = self.keyspace.shard("named", shard)
        reply = await self._call("take_slab", [key], name, transfer, amounts_text(granted), dry_ms)
        return bool(reply[0] == 1)


def _alarm(member: bytes) -> tuple[str, str, str]:
    run_id, path, what = _text(member).split(" ")
    return run_id, path, what


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _refusal(reply: Sequence[Any]) -> Refusal:
    return Refusal(_text(reply[1]), _text(reply[2]), int(reply[3]), int(reply[4]))


def _delay(reply: Sequence[Any]) -> Delayed:
    return Delayed(_text(reply[1]), _text(reply[2]), int(reply[3]) or None)


def _schema_mismatch(run_id: str, schema: bytes) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"Run {run_id} was written with schema {_text(schema)}; this release knows {SCHEMA_VERSION}.",
        suggestion="Upgrade this process before it serves the run; the run waits.",
    )
