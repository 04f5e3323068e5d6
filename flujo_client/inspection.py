"""`RunInspector`: reads runs as people look at them. What `flujo show`, `flujo watch` and whoever waits for a run draw on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError

from flujo_client.execution.decision import NodeState, NodeStatus
from flujo_client.execution.faults import error_of
from flujo_client.execution.graph import step_at
from flujo_client.execution.paths import order_of
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import FlujoError, RunNotFoundError, StateUnavailableError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.quota import COST, TOKENS
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.specs import SpecStore
from flujo_client.snapshots import (
    Managers,
    Question,
    QueuedStep,
    RunSnapshot,
    RunSummary,
    RunWaits,
    counted,
    declined_at,
    decoded,
    delayed_by,
    drawn_of,
    graph_of,
    rows_of,
    summary_of,
    waiters_of,
)

__all__ = ["RunInspector"]

#: Nodes of one page.
_PAGE = 500

#: Where a run waits in more places than these, the first that are found speak for the others.
_MOST_FOUND = 1_000
_MOST_TOLD = 100

#: How a node is stored that is dispatched, or paused: without reading the rest of it.
_BEGINNINGS = {
    status: NodeState(status=status).model_dump_json(exclude_defaults=True).removesuffix("}").encode()
    for status in (NodeStatus.DISPATCHED, NodeStatus.PAUSED)
}


class RunInspector:
    """Reads runs. Writes nothing.

    Args:
        client: Redis with replies as bytes; owned by the caller.
        keyspace: Makes the keys.
        specs: The published pipelines.
    """

    def __init__(self, client: RedisClient, keyspace: Keyspace, specs: SpecStore) -> None:
        self._client = client
        self._keyspace = keyspace
        self._specs = specs

    async def runs(self, most: int = 50) -> list[RunSummary]:
        """The newest runs: those under way, then those that have ended and are still stored.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        pipeline = self._client.pipeline(transaction=False)
        for name in ("active", "finished"):
            for shard in range(self._keyspace.shards):
                pipeline.zrevrange(self._keyspace.shard(name, shard), 0, most - 1, withscores=True)
        pages, shards = await _replies(pipeline), self._keyspace.shards
        newest = [  # the pages of one kind together: on each shard lie runs of any age
            sorted((row for page in kind for row in page), key=lambda row: row[1], reverse=True)
            for kind in (pages[:shards], pages[shards:])
        ]
        ids = [run_id.decode() for run_id in dict.fromkeys(name for rows in newest for name, _ in rows)][:most]
        if not ids:
            return []
        managers = await self._managers()
        for run_id in ids:
            keys = self._keyspace.run(run_id)
            pipeline.hgetall(keys.run)
            pipeline.hgetall(keys.nodes)
            pipeline.hmget(keys.accounts, f"total|{COST}", f"total|{TOKENS}")
        found = zip(*(iter(await _replies(pipeline)),) * 3, strict=True)
        return [
            await self._summary_with_steps(_spent(summary_of(decoded(record), managers), totals), record, nodes)
            for record, nodes, totals in found
            if record
        ]

    async def _summary_with_steps(
        self, summary: RunSummary, fields: Mapping[bytes, bytes], nodes: Mapping[bytes, bytes]
    ) -> RunSummary:
        record = decoded(fields)
        try:
            spec = await self._specs.get(record["spec"], record["run_id"])
        except StateUnavailableError:
            raise
        except FlujoError:  # a newer release wrote it: the other runs are listed all the same
            return summary
        graph = graph_of(spec, decoded(nodes))
        return counted(summary, rows_of(graph, {}), error_of(record, graph))

    async def snapshot(self, run_id: str) -> RunSnapshot:
        """A run's tree and accounts.

        Raises:
            RunNotFoundError: No such run.
            StateUnavailableError: Redis does not answer.
            SchemaMismatchError: A newer release started the run.
        """
        keys = self._keyspace.run(run_id)
        pipeline = self._client.pipeline(transaction=False)
        for key in (keys.run, keys.nodes, keys.accounts, keys.attempts):
            pipeline.hgetall(key)
        record, nodes, accounts, attempts = map(decoded, await _replies(pipeline))
        if not record:
            raise RunNotFoundError.of(run_id)
        managers = await self._managers()
        if not record["spec"]:  # its submission was refused
            return RunSnapshot(replace(summary_of(record, managers), steps=0), (), (), now_ms=managers.now_ms)
        spec = await self._specs.get(record["spec"], run_id)
        graph = graph_of(spec, nodes)
        rows, error = rows_of(graph, attempts), error_of(record, graph)
        totals = {name.removeprefix("total|"): int(n) for name, n in accounts.items() if name.startswith("total|")}
        summary = replace(summary_of(record, managers), cost_nanousd=totals.get(COST, 0), tokens=totals.get(TOKENS, 0))
        names = dict.fromkeys(record.get("accounts", "").split())
        names |= dict.fromkeys(name for step in spec.steps() for name in step.accounts)
        return RunSnapshot(
            counted(summary, rows, error),
            rows,
            tuple(read_accounts(accounts)),
            totals,
            now_ms=managers.now_ms,
            drawn=drawn_of([*names], accounts),
            waiters=() if summary.status.terminal else tuple(waiters_of(rows, attempts)),
        )

    async def summary(self, run_id: str) -> RunSummary:
        """A run without its nodes: nothing is told of its steps and questions, and of an error only what the run itself keeps.

        Raises:
            RunNotFoundError, StateUnavailableError: As `snapshot`.
        """
        keys = self._keyspace.run(run_id)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(keys.run)
        pipeline.hmget(keys.accounts, f"total|{COST}", f"total|{TOKENS}")
        record, totals = await _replies(pipeline)
        if not record:
            raise RunNotFoundError.of(run_id)
        return _spent(summary_of(decoded(record), await self._managers()), totals)

    async def still_ms(self, run_id: str) -> int | None:
        """For how long nothing has happened in a run, by the clock of Redis: two short replies, however large it is.

        Returns:
            None if there is no such run.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hget(self._keyspace.run(run_id).run, "last_event")
        pipeline.time()
        last, time = await _replies(pipeline)
        return None if last is None else _ms(time) - int(last.partition(b"-")[0])

    async def waits(self, run_id: str) -> RunWaits:
        """What a run waits for: its queued steps and its questions. Read page by page, and never more than it takes to say
        why it stands still: of more than a thousand such nodes those found first, of which a hundred are told.

        Raises:
            RunNotFoundError, StateUnavailableError, SchemaMismatchError: As `snapshot`.
        """
        keys = self._keyspace.run(run_id)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hget(keys.run, "spec")
        pipeline.time()
        spec_hash, time = await _replies(pipeline)
        if spec_hash is None:
            raise RunNotFoundError.of(run_id)
        if not spec_hash:  # its submission was refused
            return RunWaits()
        spec = await self._specs.get(spec_hash.decode(), run_id)
        found = await self._standing(keys.nodes)
        queued = await self._queued(keys.attempts, spec, found[NodeStatus.DISPATCHED])
        queues = list(dict.fromkeys(step.queue for step in queued))
        shard = self._keyspace.shard_of(run_id)
        pipeline.zcount(self._keyspace.shard("incarnations", shard), _ms(time), "+inf")
        pipeline.hmget(self._keyspace.shard("intake", shard), [f"{queue}|latest" for queue in queues or ("",)])
        workers, taken = await _replies(pipeline)
        return RunWaits(
            queued,
            _questions(spec, found[NodeStatus.PAUSED]),
            workers,
            tuple(queue for queue, latest in zip(queues, taken, strict=False) if latest is None),
        )

    async def _standing(self, key: str) -> dict[NodeStatus, dict[str, bytes]]:
        """The nodes that are dispatched or paused, as they are stored, up to a thousand."""
        found: dict[NodeStatus, dict[str, bytes]] = {status: {} for status in _BEGINNINGS}
        cursor = -1
        while cursor and sum(map(len, found.values())) < _MOST_FOUND:
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hscan(key, max(cursor, 0), count=_PAGE)
            ((cursor, page),) = await _replies(pipeline)
            for status, beginning in _BEGINNINGS.items():
                found[status] |= {path.decode(): text for path, text in page.items() if text.startswith(beginning)}
        return found

    async def _queued(self, key: str, spec: PipelineSpec, dispatched: Mapping[str, bytes]) -> tuple[QueuedStep, ...]:
        """Those dispatched steps that no worker holds, up to a hundred, in declared order."""
        held = await self._fields(key, [f"{path}|state" for path in dispatched])
        paths = [path for path in dispatched if held.get(f"{path}|state") == "dispatched"][:_MOST_TOLD]
        attempts = held | await self._fields(
            key, [f"{path}|{what}" for path in paths for what in ("declined", "waits")]
        )
        queued = []
        for path in sorted(paths, key=order_of):
            state = NodeState.parse(dispatched[path])
            step, delayed = step_at(spec, path, state), delayed_by(path, state, attempts)
            queued.append(QueuedStep(step.name, step.queue, declined_at(path, state, attempts), delayed))
        return tuple(queued)

    async def _fields(self, key: str, names: Sequence[str]) -> dict[str, str]:
        """Those of a hash's fields that it has."""
        if not names:
            return {}
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hmget(key, names)
        (values,) = await _replies(pipeline)
        return {name: value.decode() for name, value in zip(names, values, strict=True) if value is not None}

    async def _managers(self) -> Managers:
        now_ms, alive = 0, set[str]()
        for shard in range(self._keyspace.shards):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.zrange(self._keyspace.shard("managers", shard), 0, -1, withscores=True)
            time, members = await _replies(pipeline)
            now_ms = _ms(time)
            alive |= {name.decode() for name, deadline_ms in members if deadline_ms >= now_ms}
        return Managers(now_ms, frozenset(alive))


async def _replies(pipeline: Any) -> list[Any]:
    """The replies to a pipeline's commands, read in one round trip."""
    try:
        replies: list[Any] = await pipeline.execute()
    except (RedisError, OSError) as error:
        raise StateUnavailableError(
            f"Redis does not answer: {str(error).rstrip('.')}.", suggestion="Ask again."
        ) from error
    return replies


def _ms(time: tuple[int, int]) -> int:
    """Redis' clock, as it answers TIME."""
    seconds, micros = time
    return seconds * 1000 + micros // 1000


def _spent(summary: RunSummary, totals: Sequence[bytes | None]) -> RunSummary:
    cost_nanousd, tokens = (int(total or 0) for total in totals)
    return replace(summary, cost_nanousd=cost_nanousd, tokens=tokens)


def _questions(spec: PipelineSpec, paused: Mapping[str, bytes]) -> tuple[Question, ...]:
    """What paused steps ask, in declared order."""
    nodes = {path: NodeState.parse(paused[path]) for path in sorted(list(paused)[:_MOST_TOLD], key=order_of)}
    return tuple(
        Question(path, step_at(spec, path).name, node.pause.message, node.dead)
        for path, node in nodes.items()
        if node.pause is not None
    )
