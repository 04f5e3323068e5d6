"""A run as people look at it, made of its records: its tree of nodes, its accounts, what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core

from flujo_client.execution.decision import FRESH, NodeState, NodeStatus
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import child_of
from flujo_client.protocol.accounts import AccountRow
from flujo_client.protocol.envelopes import rebuild_error
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.quota import COST, TOKENS, Amounts, parse_amounts
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import NodeSpec, PipelineSpec, SequenceSpec

__all__ = [
    "Managers",
    "NodeRow",
    "Question",
    "QueuedStep",
    "RunSnapshot",
    "RunSummary",
    "RunWaits",
    "Waiter",
    "counted",
    "declined_at",
    "decoded",
    "delayed_by",
    "drawn_of",
    "graph_of",
    "rows_of",
    "summary_of",
    "waiters_of",
]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node of a run's tree. `cost_nanousd` and `tokens` are of all its attempts, children included.

    Attributes:
        started_ms: Since when a worker holds the attempt under way, Redis time; None while nobody does.
        latency_ms: Of the last attempt that ended; of a composite, of all of them one after the other; of branches and items the longest.
        declined: What the worker lacked that gave the attempt back.
        waits_for: The named account, and its meter, that keeps the attempt from starting.
        fallback: The step that it fell back on, if it did; `original_error` is why.
        question: What it asks, while it waits for an answer; its path is the token.
        dead: It waits as a dead letter: `question` says what to do, and takes no answer.
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
    dead: bool = False
    children: tuple[NodeRow, ...] = ()

    def leaves(self) -> Iterator[NodeRow]:
        """Every leaf in it, in declared order; itself if it is one."""
        if self.kind in ("step", "hitl"):
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True, slots=True)
class Question:
    """What a step of a run asks; the token names it for `flujo resume`. A dead letter tells what to do, and takes no answer."""

    token: str
    step: str
    message: str
    dead: bool = False


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
class QueuedStep:
    """A step that waits for a worker.

    Attributes:
        declined: What the worker lacked that gave it back last, None if none did.
        waits_for: The named account, and its meter, that keeps it from starting.
    """

    name: str
    queue: str
    declined: str | None = None
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class RunWaits:
    """What a run waits for, in declared order, and who could serve it.

    Attributes:
        workers: How many are alive.
        unserved: Queues of `queued` from which no worker ever took a step.
    """

    queued: tuple[QueuedStep, ...] = ()
    questions: tuple[Question, ...] = ()
    workers: int = 0
    unserved: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Managers:
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


def decoded(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """A hash as text; bytes that are none are replaced."""
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}


def summary_of(record: Mapping[str, str], managers: Managers) -> RunSummary:
    """A run's line without its steps, from its record."""
    status, created_ms = RunStatus(record["status"]), int(record["created_ms"])
    return RunSummary(
        run_id=record["run_id"],
        pipeline=record["pipeline"],
        status=status,
        owner=record["owner"],
        created_ms=created_ms,
        unmanaged=not status.terminal and not managers.drive(record["owner"]),
        duration_ms=int(record.get("finished_ms", managers.now_ms)) - created_ms,
        error=_words(pydantic_core.from_json(record["error"])) if record.get("error") else None,
    )


def counted(summary: RunSummary, rows: tuple[NodeRow, ...], error: Mapping[str, Any] | None) -> RunSummary:
    """A run's line with its steps, its questions, and its error as it is told everywhere."""
    steps = [step for row in rows for step in row.leaves()]
    committed = sum(step.status is NodeStatus.SUCCEEDED for step in steps)
    asked = (
        ()
        if summary.status.terminal
        else tuple(
            Question(step.path, step.name, step.question, step.dead) for step in steps if step.question is not None
        )
    )
    told = None if error is None else _words(error)
    return replace(summary, steps=len(steps), steps_committed=committed, error=told, questions=asked)


def _words(error: Mapping[str, Any]) -> str:
    """All that an error says, as whoever waits for the run is told it: of a limit its name, the amounts, the place and the remedy."""
    return str(rebuild_error({**error}))


def graph_of(spec: PipelineSpec, nodes: Mapping[str, str]) -> RunGraph:
    """The graph of a run, from its nodes as they are stored."""
    states = {path: NodeState.parse(text) for path, text in nodes.items()}
    return RunGraph(spec, KINDS, lambda path: states.get(path, FRESH))


def rows_of(graph: RunGraph, attempts: Mapping[str, str]) -> tuple[NodeRow, ...]:
    """The tree of a run's nodes, without the root."""
    return _row(graph, "root", None, attempts).children


def _row(graph: RunGraph, path: str, label: str | None, attempts: Mapping[str, str]) -> NodeRow:
    node, state = graph.node(path), graph.state(path)
    inside = graph.kind(path).children(graph, path, node)
    children = tuple(_row(graph, child_of(path, index), name, attempts) for index, name in inside)
    waits_for, latencies = delayed_by(path, state, attempts), [child.latency_ms for child in children]
    usage = state.usage if state.status.ended else _with_billed(path, state, attempts)
    return NodeRow(
        path=path,
        name=label or graph.name(path),
        kind=node.kind,
        status=NodeStatus.BLOCKED if waits_for else _status(node, state, children),
        attempts=state.attempt,
        latency_ms=state.latency_ms or (max(latencies, default=0) if graph.kind(path).splits else sum(latencies)),
        tokens=usage.get(TOKENS, 0) + sum(child.tokens for child in children),
        cost_nanousd=usage.get(COST, 0) + sum(child.cost_nanousd for child in children),
        error=(state.error or {}).get("message"),
        declined=declined_at(path, state, attempts),
        started_ms=_started_ms(path, state, attempts),
        question=state.pause.message if state.pause is not None and state.status is NodeStatus.PAUSED else None,
        waits_for=waits_for,
        fallback=graph.step(path).name if state.fallback else None,
        original_error=(state.original_error or {}).get("message"),
        dead=state.dead,
        children=children,
    )


def _with_billed(path: str, state: NodeState, attempts: Mapping[str, str]) -> Mapping[str, int]:
    """What a node used, with what its attempt billed that the run has not heard of: it was stopped by the run's end, or is just committed."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "closed":
        return state.usage
    billed = parse_amounts(attempts.get(f"claim|{attempts.get(f'{path}|nonce', '')}|used", ""))
    return {meter: state.usage.get(meter, 0) + billed.get(meter, 0) for meter in {*state.usage, *billed}}


def waiters_of(rows: tuple[NodeRow, ...], attempts: Mapping[str, str]) -> Iterator[Waiter]:
    """Who is blocked, or waits in its place, in declared order, and for want of what (see reserve.lua, extend.lua)."""
    for step in (step for row in rows for step in row.leaves()):
        state, claim = attempts.get(f"{step.path}|state"), f"claim|{attempts.get(f'{step.path}|nonce', '')}"
        lack: list[str] = []
        if state == "blocked":
            lack = attempts[f"{claim}|answer"].split(" ")
        elif state == "leased" and f"{step.path}|blocked" in attempts:
            lack = attempts[f"{claim}|asks"].split(" ")[2:6]
        if lack:
            account, meter, asked, free = lack
            yield Waiter(step.path, step.name, account, meter, int(asked), int(free))


def _status(node: NodeSpec, state: NodeState, children: tuple[NodeRow, ...]) -> NodeStatus:
    started = any(child.status is not NodeStatus.WAITING for child in children)
    if isinstance(node, SequenceSpec) and state.status is NodeStatus.WAITING and started:
        return NodeStatus.RUNNING
    return state.status


def declined_at(path: str, state: NodeState, attempts: Mapping[str, str]) -> str | None:
    """What the last worker that got the step lacked, while nobody has taken it since."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "dispatched":
        return None
    _, _, label = attempts.get(f"{path}|declined", "").partition(" ")
    return label or None


def delayed_by(path: str, state: NodeState, attempts: Mapping[str, str]) -> str | None:
    """The named account that delays the attempt under way, and its meter."""
    if state.status is not NodeStatus.DISPATCHED or attempts.get(f"{path}|state") != "dispatched":
        return None
    attempt, _, where = attempts.get(f"{path}|waits", "").partition(" ")
    return " ".join(where.split()[:2]) if attempt == str(state.attempt) else None


def drawn_of(names: Sequence[str], accounts: Mapping[str, str]) -> dict[str, Amounts]:
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
