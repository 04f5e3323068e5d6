"""Attempts: claimed, extended, streamed, committed, given back, lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flujo_client.protocol.messages import SCHEMA_VERSION
from flujo_client.protocol.quota import amounts_text, parse_amounts
from flujo_client.protocol.replies import (
    Blocked,
    Claim,
    Committed,
    Delayed,
    Duplicate,
    Emission,
    LeaseLost,
    Refusal,
    Reserved,
    RunInactive,
    WorkerDead,
)
from flujo_client.protocol.scripts.calls import ScriptCalls, schema_mismatch, text_of

__all__ = ["SETTLES_KEPT", "SETTLES_TTL_MS", "AttemptScripts"]

#: What emit.lua replies.
_EMISSIONS = {
    0: Emission.LOST,
    1: Emission.APPENDED,
    2: Emission.APPENDED,
    3: Emission.AGAIN,
    4: Emission.GAP,
}

#: Settles of a step from which its estimate is learned, and how long they are kept after the last, ms.
SETTLES_KEPT = 256

SETTLES_TTL_MS = 30 * 86_400_000


class AttemptScripts(ScriptCalls):
    """Attempts: claimed, extended, streamed, committed, given back, lost."""

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
                left = parse_amounts(text_of(remaining))
                return Reserved(task, text_of(owner), text_of(traceparent), int(deadline_ms), left, payloads)
            case 0:
                return Duplicate()
            case -1:
                return RunInactive(text_of(reply[1]))
            case -2:
                return _blocked(reply)
            case -3:
                return WorkerDead()
            case -4:
                return _refusal(reply)
            case -6:
                return _delay(reply)
            case _:
                raise schema_mismatch(claim.run_id, reply[1])

    async def extend(
        self, claim: Claim, owner: str, counter: int, amounts: Mapping[str, int], waited_ms: int = 0
    ) -> Refusal | Blocked | Delayed | LeaseLost | None:
        """Add to a held reservation, all meters or none; once per counter, which rises by one per extension.

        After `Blocked` and `Delayed` the same is asked again; asking for anything else withdraws it.

        Args:
            owner: Manager to wake, if others than the caller are decided about.
            waited_ms: For how long this has been asked in vain.
        """
        keys, shard = self.keyspace.run(claim.run_id), self.keyspace.shard_of(claim.run_id)
        reply = await self._call(
            "extend",
            [
                keys.run,
                keys.attempts,
                keys.accounts,
                keys.events,
                self.keyspace.shard("dirty", shard),
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
            counter,
            amounts_text(amounts),
            waited_ms,
        )
        match reply[0]:
            case 1:
                return None
            case 0:
                return LeaseLost()
            case -2:
                return _blocked(reply)
            case -6:
                return _delay(reply)
            case _:
                return _refusal(reply)

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
            return Committed(parse_amounts(text_of(reply[1])))
        return LeaseLost() if reply[0] == 0 else RunInactive(text_of(reply[1]))

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


def _refusal(reply: Sequence[Any]) -> Refusal:
    return Refusal(text_of(reply[1]), text_of(reply[2]), int(reply[3]), int(reply[4]))


def _blocked(reply: Sequence[Any]) -> Blocked:
    return Blocked(text_of(reply[1]), text_of(reply[2]), int(reply[3]), int(reply[4]))


def _delay(reply: Sequence[Any]) -> Delayed:
    return Delayed(text_of(reply[1]), text_of(reply[2]), int(reply[3]) or None)
