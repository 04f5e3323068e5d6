"""A run as people look at it: its tree of nodes and its tree of accounts. What `flujo show` and `flujo watch` draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core
from redis.exceptions import RedisError

from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.execution.faults import error_of
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import child_of
from flujo_client.protocol.accounts import AccountRow, read_accounts
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import FlujoError, RunNotFoundError, StateUnavailableError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.quota import COST, TOKENS, Amounts
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import NodeSpec, PipelineSpec, SequenceSpec
from flujo_client.protocol.specs import SpecStore

__all__ = ["NodeRow", "Question", "RunInspector", "RunSnapshot", "RunSummary", "Waiter"]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node of a run's tree. `cost_nanousd` and `tokens` are of all its attempts, children included.

    Attributes:
        started_ms: Since when a worker holds the attempt under way, Redis time; None while nobody does.
        latency_ms: Of the last attempt that ended; of a composite, of all of them one after the other.
        declined: What the worker lacked that gave the attempt back.
        waits_for: The named account, and its meter, that keeps the attempt from starting.
        fallback: The step that it fell back on, if it did; `original_error` is why.
        question: What it asks, while it waits for an answer; its path is the token.
    """

    path: str
    name: str
    kind: str
    status: NodeStatus
    attempts: int
    latency_ms: int
    tokens: int
    cost_nanousd: int
    error: str | None
    declined: str | None
    started_ms: int | None = None
    question: str | None = None
    waits_for: str | None = None
    fallback: str | None = None
    original_error: str | None = None
    children: tuple[NodeRow, ...] = ()

    def leaves(self) -> Iterator[NodeRow]:
        """Every leaf in it, in declared order; itself if it is one."""
        if self.kind in ("step", "hitl"):
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class Question:
    """What a step of a run asks; the token names it for `flujo resume`."""

    token: str
    step: str
    message: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `flujo runs`.

    Attributes:
        unmanaged: It has not ended, its owner is gone or the pool, and no living manager serves the pool.
        duration_ms: From its creation to now, or to its end.
        steps: How many its pipeline has; None if this release cannot read the pipeline.
        steps_committed: How many of them have succeeded.
        cost_nanousd, tokens: What it has spent, limited or not.
        questions: What it waits for, in declared order.
        error: Why it did not complete, as `faults.error_of` tells it everywhere; None if it did.
    """

    run_id: str
    pipeline: str
    status: RunStatus
    owner: str
    created_ms: int
    unmanaged: bool
    duration_ms: int
    steps: int | None = None
    steps_committed: int = 0
    cost_nanousd: int = 0
    tokens: int = 0
    error: str | None = None
    questions: tuple[Question, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiter:
    """An attempt that is blocked: what it asked for when it came, of which account, and what that could get then."""

    path: str
    name: str
    account: str
    meter: str
    asked: int
    free: int


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """A run at one moment, `now_ms` in Redis time.

    Attributes:
        drawn: What it has spent of its named accounts, or holds as unknown, by account and meter.
    """

    summary: RunSummary
    nodes: tuple[NodeRow, ...]
    accounts: tuple[AccountRow, ...]
    totals: Mapping[str, int] = field(default_factory=dict)
    now_ms: int = 0
    drawn: Mapping[str, Amounts] = field(default_factory=dict)
    waiters: tuple[Waiter, ...] = ()

    def steps(self) -> Iterator[NodeRow]:
        """Every leaf, in declared order."""
        for node in self.nodes:
            yield from node.leaves()


@dataclass(frozen=True, slots=True)
class _Managers:
    """Who drives runs at a moment. A killed manager stays listed until a sweep, so only its deadline tells."""

    now_ms: int
    alive: frozenset[str]

    @property
    def pool_lives(self) -> bool:
        """Whether a pool manager is alive: pool managers own no runs of their own, callers' managers do."""
        return any(name.startswith("pool-") for name in self.alive)

    def drive(self, owner: str) -> bool:
        """Whether somebody advances the runs of an owner, or would take them over."""
        return self.pool_lives or (owner != POOL and owner in self.alive)


class RunInspector:
    """Reads snapshots. Writes nothing.

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
            await self._summary_with_steps(_decoded(record), _decoded(nodes), totals, managers)
            for record, nodes, totals in found
            if record
        ]

    async def _summary_with_steps(
        self, record: Mapping[str, str], nodes: Mapping[str, str], totals: list[bytes | None], managers: _Managers
    ) -> RunSummary:
        cost_nanousd, tokens = (int(total or 0) for total in totals)
        summary = replace(_summary(record, managers), cost_nanousd=cost_nanousd, tokens=tokens)
        try:
            spec = await self._specs.get(record["spec"], record["run_id"])
        except StateUnavailableError:
            raise
        except FlujoError:  # a newer release wrote it: the other runs are listed all the same
            return summary
        graph = _graph(spec, nodes)
        return _counted(summary, _rows(graph, {}), error_of(record, graph))

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
        record, nodes, accounts, attempts = map(_decoded, await _replies(pipeline))
        if not record:
            raise RunNotFoundError(
                f"No run {run_id} is known.",
                suggestion="Check the id and FLUJO_NAMESPACE; its retention may have ended.",
                run_id=run_id,
            )
        managers = await self._managers()
        if not record["spec"]:  # its submission was refused
            return RunSnapshot(replace(_summary(record, managers), steps=0), (), (), now_ms=managers.now_ms)
        spec = await self._specs.get(record["spec"], run_id)
        graph = _graph(spec, nodes)
        rows, error = _rows(graph, attempts), error_of(record, graph)
        totals = {name.removeprefix("total|"): int(n) for name, n in accounts.items() if name.startswith("total|")}
        summary = replace(_summary(record, managers), cost_nanousd=totals.get(COST, 0), tokens=totals.get(TOKENS, 0))
        names = dict.fromkeys(record.get("accounts", "").split())
        names |= dict.fromkeys(name for step in spec.steps() for name in step.accounts)
        return RunSnapshot(
            _counted(summary, rows, error),
            rows,
            tuple(read_accounts(accounts)),
            totals,
            now_ms=managers.now_ms,
            drawn=_drawn([*names], accounts),
            waiters=() if summary.status.terminal else tuple(_waiters(rows, attempts)),
        )

    async def _managers(self) -> _Managers:
        now_ms, alive = 0, set[str]()
        for shard in range(self._keyspace.shards):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.zrange(self._keyspace.shard("managers", shard), 0, -1, withscores=True)
            (seconds, micros), members = await _replies(pipeline)
            now_ms = seconds * 1000 + micros // 1000
            alive |= {name.decode() for name, deadline_ms in members if deadline_ms >= now_ms}
        return _Managers(now_ms, frozenset(alive))


async def _replies(pipeline: Any) -> list[Any]:
    """The replies to a pipeline's commands, read in one round trip."""
    try:
        replies: list[Any] = await pipeline.execute()
    except (RedisError, OSError) as error:
        raise StateUnavailableError(f"Redis does not answer: {error}.", suggestion="Ask again.") from error
    return replies


def _decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}


def _summary(record: Mapping[str, str], managers: _Managers) -> RunSummary:
    status, created_ms = RunStatus(record["status"]), int(record["created_ms"])
    return RunSummary(
        run_id=record["run_id"],
        pipeline=record["pipeline"],
        status=status,
        owner=record["owner"],
        created_ms=created_ms,
        unmanaged=not status.terminal and not managers.drive(record["owner"]),
        duration_ms=int(record.get("finished_ms", managers.now_ms)) - created_ms,
        error=pydantic_core.from_json(record["error"])["message"] if record.get("error") else None,
    )


def _counted(summary: RunSummary, rows: tuple[NodeRow, ...], error: Mapping[str, Any] | None) -> RunSummary:
    steps = [step for row in rows for step in row.leaves()]
    committed = sum(step.status is NodeStatus.SUCCEEDED for step in steps)
    asked = (
        ()
        if summary.status.terminal
        else tuple(Question(step.path, step.name, step.question) for step in steps if step.question is not None)
    )
    told = None if error is None else str(error["message"])
    return replace(summary, steps=len(steps), steps_committed=committed, error=told, questions=asked)


def _graph(spec: PipelineSpec, nodes: Mapping[str, str]) -> RunGraph:
    states = {path: NodeState.parse(text) for path, text in nodes.items()}
    return RunGraph(spec, KINDS, lambda path: states.get(path, FRESH))


def _rows(graph: RunGraph, attempts: Mapping[str, str]) -> tuple[NodeRow, ...]:
    return _row(graph, "root", None, attempts).children


def _row(graph: RunGraph, path: str, label: str | None, attempts: Mapping[str, str]) -> NodeRow:
    node, state = graph.node(path), graph.state(path)
    inside = graph.kind(path).children(graph, path, node)
    children = tuple(_row(graph, child_of(path, index), name, attempts) for index, name in inside)
    waits_for = _waits_for(path, state, attempts)
    return NodeRow(
        path=path,
        name=label or graph.name(path),
        kind=node.kind,
        status=NodeStatus.BLOCKED if waits_for else _status(node, state, children),
        attempts=state.attempt,
        latency_ms=state.latency_ms or sum(child.latency_ms for child in children),
        tokens=state.usage.get(TOKENS, 0) + sum(child.tokens for child in children),
        cost_nanousd=state.usage.get(COST, 0) + sum(child.cost_nanousd for child in children),
        error=(state.error or {}).get("message"),
        declined=_declined(path, state, attempts),
        started_ms=_started_ms(path, state, attempts),
        question=state.pause.message if state.pause is not None and state.status is NodeStatus.PAUSED else None,
        waits_for=waits_for,
        fallback=graph.step(path).name if state.fallback else None,
        original_error=(state.original_error or {}).get("message"),
        children=children,
    )


def _waiters(rows: tuple[NodeRow, ...], attempts: Mapping[str, str]) -> Iterator[Waiter]:
    """Who is blocked, in declared order. The answer to its claim says for want of what (see reserve.lua)."""
    for step in (step for row in rows for step in row.leaves()):
        if attempts.get(f"{step.path}|state") == "blocked":
            answer = attempts[f"claim|{attempts[f'{step.path}|nonce']}|answer"]
            account, meter, asked, free = answer.split(" ")
            yield Waiter(step.path, step.name, account, meter, int(asked), int(free))


def _status(node: NodeSpec, state: NodeState, children: tuple[NodeRow, ...]) -> NodeStatus:
    started = any(child.status is not NodeStatus.WAITING for child in children)
    if isinstance(node, SequenceSpec) and state.status is NodeStatus.WAITING and started:
        return NodeStatus.RUNNING
    return state.status


def _declined(path: str, state: NodeState, attempts: Mapping[str, str]) -> str | None:
    """What the last worker that got the step lacked, while nobody has taken it since."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "dispatched":
        return None
    _, _, label = attempts.get(f"{path}|declined", "").partition(" ")
    return label or None


def _waits_for(path: str, state: NodeState, attempts: Mapping[str, str]) -> str | None:
    """The named account that delays the attempt under way, and its meter."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "dispatched":
        return None
    attempt, _, where = attempts.get(f"{path}|waits", "").partition(" ")
    return " ".join(where.split()[:2]) if attempt == str(state.attempt) else None


def _drawn(names: Sequence[str], accounts: Mapping[str, str]) -> dict[str, Amounts]:
    """What a run has drawn on named accounts, those among them that it has not touched yet."""
    drawn: dict[str, Amounts] = {name: {} for name in names}
    for field_name, amount in accounts.items():
        if field_name.startswith("named|"):
            _, account, meter, _, _ = field_name.split("|")
            of_it = drawn.setdefault(account, {})
            of_it[meter] = of_it.get(meter, 0) + int(amount)
    return drawn


def _started_ms(path: str, state: NodeState, attempts: Mapping[str, str]) -> int | None:
    """When the attempt under way was leased: its deadline less the longest that it may take (see reserve.lua)."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "leased":
        return None
    deadline_ms = int(attempts[f"claim|{attempts[f'{path}|nonce']}|answer"])
    return deadline_ms - int(attempts[f"{path}|terms"].partition(";")[0])
