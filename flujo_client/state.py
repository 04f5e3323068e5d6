"""`StateManager`: a run's records, read and written through the scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from flujo_client.execution.decision import FRESH, Decision, NodeState, RunView
from flujo_client.execution.recent import RecentRuns
from flujo_client.execution.result import assemble_result
from flujo_client.execution.undecided import bare_result
from flujo_client.protocol.errors import RunNotFoundError
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.learned import LearnedEstimates
from flujo_client.protocol.payloads import PayloadCodec, json_bytes
from flujo_client.protocol.quota import parse_amounts
from flujo_client.protocol.replies import Advanced, Forbidden, LoadedRun, Overtaken, SplitStale
from flujo_client.protocol.results import PipelineContext, RunStatus
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.scripts.calls import fields_of, pairs_of
from flujo_client.protocol.specs import SpecStore

__all__ = ["SUSPECT_MS", "StateManager"]

#: A dispatch that nobody leased for this long may be lost.
SUSPECT_MS = 2_000

_MOST_EVENTS = 500


class StateManager:
    """Loads and stores the runs of one namespace. Remembers those it stored last, and specs, which never change.

    Attributes:
        recent: The runs as they were stored last; to be told of wake-ups.

    Args:
        scripts: On the Redis that holds the runs.
        codec: Of the payloads.
        max_deliveries: Workers that a step may kill before it is given up.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, *, max_deliveries: int = 3) -> None:
        self._commands = scripts.commands
        self._codec = codec
        self._max_deliveries = max_deliveries
        self.scripts = scripts
        self.keyspace = scripts.keyspace
        self.specs = SpecStore(scripts)
        self._learned = LearnedEstimates(scripts)
        self.recent = RecentRuns()

    async def load_workflow_state(self, run_id: str, *, with_free: bool = False) -> tuple[LoadedRun, RunView] | None:
        """A run with its new events; None if it is unknown. Called before each decision, and when a run is taken over.

        It is read, unless it is remembered and its one new outcome came with the wake-up, or it is new.

        Args:
            with_free: What its accounts have free is wanted, too: then it is read in any case.
        """
        if with_free:
            return await self.read_run(run_id, with_free=True)
        known = self.recent.take(run_id)
        if known is not None:
            return known
        loaded = self.recent.take_new(run_id)
        return await self.read_run(run_id) if loaded is None else (loaded, await self._view(run_id, loaded))

    async def read_run(self, run_id: str, *, with_free: bool = False) -> tuple[LoadedRun, RunView] | None:
        """Read a run as Redis has it; None if it is unknown."""
        loaded = await self.scripts.load_run(run_id, _MOST_EVENTS, with_free=with_free)
        if loaded is None:
            return None
        view = await self._view(run_id, loaded)
        return loaded, view if with_free else replace(view, free=None)

    async def _view(self, run_id: str, loaded: LoadedRun) -> RunView:
        record = loaded.record
        spec = await self.specs.get(record["spec"], run_id)
        return RunView(
            run_id=run_id,
            spec=spec,
            learned=await self._learned.of(spec) if spec.quantiles else {},
            status=RunStatus(record["status"]),
            nodes={path: NodeState.parse(node) for path, node in loaded.nodes.items()},
            limits=parse_amounts(record["limits"]),
            accounts=tuple(record.get("accounts", "").split()),
            owner=record["owner"],
            free=loaded.free,
            has_context=record["metadata"] == "1",
            traceparent=record["traceparent"],
            max_deliveries=self._max_deliveries,
        )

    async def load_nodes(self, run_id: str, paths: Sequence[str]) -> dict[str, NodeState]:
        """Read more nodes of a run; one that is not stored is the default state."""
        rows = await self._commands.execute("HMGET", self.keyspace.run(run_id).nodes, *paths)
        return {path: FRESH if row is None else NodeState.parse(row) for path, row in zip(paths, rows, strict=True)}

    async def persist_workflow_state(
        self, loaded: LoadedRun, decision: Decision, run: RunView | None = None
    ) -> Advanced | Overtaken | SplitStale | Forbidden:
        """Store a decision if the run is as it was loaded; all of it or nothing.

        Args:
            run: As it was decided on, to be remembered as it is then; None: it is not.
        """
        operation = token_hex(16)
        status = decision.status if decision.status.value != loaded.record["status"] else None
        outcome = await self.scripts.advance(
            loaded,
            operation,
            applied=decision.applied or loaded.record["applied"],
            status=status,
            error=b"" if decision.error is None else json_bytes(decision.error),
            suspect_ms=SUSPECT_MS,
            nodes={path: node.model_dump_json(exclude_defaults=True).encode() for path, node in decision.nodes.items()},
            splits=decision.splits,
            branch_ends=decision.branch_ends,
            dispatches=decision.dispatches,
            opening=decision.incomplete,
            alarms=decision.alarms,
        )
        if run is not None and isinstance(outcome, Advanced):
            self.recent.keep(loaded, run, decision, operation, outcome)
        return outcome

    def get_run_id_from_context(self, context: PipelineContext) -> str:
        """The id of the run that a context belongs to.

        Raises:
            RunNotFoundError: The context belongs to none.
        """
        if not context.run_id:
            raise RunNotFoundError("A context without run_id belongs to no run.", suggestion="Submit the run first.")
        return context.run_id

    async def final_result(self, run_id: str) -> dict[str, Any]:
        """A run's result with references in the place of outputs; see `result.assemble_result`.

        Raises:
            RunNotFoundError: No such run.
        """
        keys = self.keyspace.run(run_id)
        record, raw_nodes, accounts = await asyncio.gather(
            *(self._commands.execute("HGETALL", key) for key in (keys.run, keys.nodes, keys.accounts))
        )
        if not record:
            raise RunNotFoundError.of(run_id)
        nodes = {path.decode(): NodeState.parse(node) for path, node in pairs_of(raw_nodes)}
        paths = [path for path, node in nodes.items() if node.attempt and "!" not in path]
        results = await self.step_results(run_id, paths)
        fields = fields_of(record)
        return assemble_result(await self.specs.get(fields["spec"], run_id), fields, nodes, results, _usage(accounts))

    async def bare_result(self, run_id: str) -> dict[str, Any]:
        """The result of a run that has ended and whose steps cannot be told; see `undecided.bare_result`."""
        accounts = await self._commands.execute("HGETALL", self.keyspace.run(run_id).accounts)
        return bare_result(await self.record(run_id), _usage(accounts))

    async def step_results(self, run_id: str, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What workers committed of steps beside their outputs, by path."""
        key = self.keyspace.run(run_id).payloads
        rows = await self._commands.execute("HMGET", key, *(f"res:{path}" for path in paths)) if paths else []
        return {path: self._codec.decode(row) for path, row in zip(paths, rows, strict=True) if row is not None}

    async def record(self, run_id: str) -> dict[str, str]:
        """A run's record, by field; empty if the run is unknown."""
        return fields_of(await self._commands.execute("HGETALL", self.keyspace.run(run_id).run))

    async def answered(self, run_id: str, paths: Sequence[str]) -> set[str]:
        """Which steps have an answer already, although their pause may not have been advanced by it yet."""
        if not paths:
            return set()
        fields = [f"{path}|answer" for path in paths]
        rows = await self._commands.execute("HMGET", self.keyspace.run(run_id).attempts, *fields)
        return {path for path, row in zip(paths, rows, strict=True) if row is not None}

    async def all_nodes(self, run_id: str) -> dict[str, NodeState]:
        """Every node that a run remembers, by path."""
        rows = await self._commands.execute("HGETALL", self.keyspace.run(run_id).nodes)
        return {path.decode(): NodeState.parse(node) for path, node in pairs_of(rows)}

    async def finish(self, run_id: str, owner: str, result: bytes, retention_ms: int) -> bool:
        """Store a terminal run's result, show it and start the retention. False if that was done before."""
        return await self.scripts.finish(run_id, owner, self._codec.seal(result), retention_ms)

    async def keep_alarm(self, run_id: str, path: str, what: str, due_ms: int) -> None:
        """Set an alarm of a pause again, as advance.lua set it where the run paused. Called twice: the same."""
        alarms = self.keyspace.shard("alarms", self.keyspace.shard_of(run_id))
        await self._commands.execute("ZADD", alarms, due_ms, f"{run_id} {path} {what}")

    async def owner_of(self, run_id: str) -> str:
        """The manager that a run belongs to, or `pool`; also for a run that is unknown."""
        owner: bytes | None = await self._commands.execute("HGET", self.keyspace.run(run_id).run, "owner")
        return POOL if owner is None else owner.decode()


def _usage(accounts: Sequence[bytes]) -> dict[str, int]:
    """What a run used in all, by meter."""
    return {
        field.decode().removeprefix("total|"): int(amount)
        for field, amount in pairs_of(accounts)
        if field.startswith(b"total|")
    }
