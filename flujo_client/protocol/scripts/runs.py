"""Runs: stored, restored, adopted, ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_client.protocol.messages import SCHEMA_VERSION
from flujo_client.protocol.quota import amounts_text
from flujo_client.protocol.replies import (
    SpecNotKept,
    UnknownAccount,
)
from flujo_client.protocol.scripts.calls import ScriptCalls, text_of

__all__ = ["LATE_MS", "SPEC_KEPT_MS", "RunScripts"]

#: No lease lasts longer than an hour, and a worker that slept over it may still bring its bill, ms. After that nobody asks
#: for the attempts of a run that has ended, which are most of what it keeps beside its values.
LATE_MS = 2 * 3_600_000

#: How long a spec stays that no run has and no name points at, ms; and how often one that has to stay is looked at.
SPEC_KEPT_MS = 3_600_000


class RunScripts(ScriptCalls):
    """Runs: stored, restored, adopted, ended."""

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
            return UnknownAccount(text_of(reply[1]))
        if reply[0] == -3:
            return SpecNotKept()
        return {1: None, -1: "conflict"}[reply[0]] if reply[0] else text_of(reply[1])

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
        return None if reply[0] >= 0 else text_of(reply[1])

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
