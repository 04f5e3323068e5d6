"""`flujo doctor`: what keeps runs from going on, and what to do about it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import typer
from pydantic_core import from_json
from redis.exceptions import RedisError, ResponseError
from rich.text import Text

from flujo_client.cli.output import JsonOption, console, execute, print_json
from flujo_client.client import AsyncFlujoClient
from flujo_client.execution.witness import LOSS, Loss
from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.errors import FlujoError, StateUnavailableError, UnsafeRedisError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.queues import DEFAULT_QUEUE
from flujo_client.protocol.results import RunStatus
from flujo_client.publisher import make_publisher

__all__ = ["Facts", "Finding", "Verdict", "judge", "register"]

#: Runs under way that are looked into, the newest.
_MOST_RUNS = 200


#: Dispatches of one page.
_PAGE = 500

#: Finished runs that may wait for the archive without anything being wrong: a manager takes a hundred a second.
_MOST_UNARCHIVED = 500


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # runs go on, something may be lost or is late
    FAULT = "fault"  # runs do not go on


_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAULT: "red"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What an installation looks like at one moment.

    Attributes:
        redis: Why Redis does not answer, or may not hold runs; None if it does and may.
        reachable: Whether Redis answers; nothing below is known if not.
        append_only: Whether it keeps an append-only file; None if it does not say.
        broker: Why the broker does not answer; None if it does.
        managers, workers: How many are alive: managers of the pool, processes that run steps.
        pipelines: Names that workers have published.
        unmanaged: Runs that nobody advances; one that is paused waits for somebody else.
        missing: Runs that wait for a step which the last worker asked does not have, by step.
        unarchived: Finished runs that wait for a state backend; None if FLUJO_STATE_URI names none.
        loss: What managers noticed that Redis lost, the last time.
        untaken: Dispatches of queues from which no worker ever took a step, by queue.
    """

    redis: str | None = None
    reachable: bool = True
    append_only: bool | None = True
    broker: str | None = None
    managers: int = 0
    workers: int = 0
    pipelines: tuple[str, ...] = ()
    unmanaged: int = 0
    missing: dict[str, int] = dataclasses.field(default_factory=dict)
    unarchived: int | None = None
    untaken: dict[str, int] = dataclasses.field(default_factory=dict)
    loss: Loss | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    verdict: Verdict
    text: str


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(doctor)


def doctor(as_json: bool = JsonOption) -> None:
    """Check Redis, the broker, managers, workers, and steps that nobody can run; exit code 1 if runs cannot go on."""
    findings = judge(execute(_look, as_json=as_json))
    healthy = all(finding.verdict is not Verdict.FAULT for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            line = Text.assemble((f"{finding.verdict.value:8}", _STYLES[finding.verdict]), f"{finding.subject:10}")
            console.print(line.append(finding.text), soft_wrap=True)
    if not healthy:
        raise typer.Exit(1)


def judge(facts: Facts) -> list[Finding]:
    """What the facts mean, in the order in which to mend them. Pure."""
    if facts.redis is not None:
        redis = Finding("redis", Verdict.FAULT, facts.redis)
    elif facts.append_only is False:
        lost = "no append-only file: if it crashes, every run since its last snapshot is lost and paid again"
        redis = Finding("redis", Verdict.WARNING, f"{lost}; set appendonly yes")
    else:
        redis = Finding("redis", Verdict.OK, "answers and keeps what it is given")
    if not facts.reachable:
        return [redis]
    broker = Finding("broker", Verdict.FAULT if facts.broker else Verdict.OK, facts.broker or "answers")
    return [redis, *_history(facts), broker, *_processes(facts), *_waiting(facts)]


def _history(facts: Facts) -> Iterator[Finding]:
    if facts.loss is None:
        return
    since = "before" if facts.loss.since_ms is None else f"between {_clock(facts.loss.since_ms)} and"
    text = (
        f"Redis lost what it had answered {since} {_clock(facts.loss.until_ms)}: a replica without its master's last writes took over, "
        "or it came back without the tail of its file; runs submitted then are gone, steps committed then run and bill again; "
        "`flujo audit` checks the books"
    )
    yield Finding("history", Verdict.WARNING, text)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _processes(facts: Facts) -> Iterator[Finding]:
    if facts.managers:
        yield Finding("managers", Verdict.OK, f"{facts.managers} alive")
    else:
        runs_wait = "1 run waits" if facts.unmanaged == 1 else f"{facts.unmanaged} runs wait"
        text = f"none is alive; {runs_wait} for one: start `flujo manager`"
        yield Finding("managers", Verdict.FAULT if facts.unmanaged else Verdict.WARNING, text)
    if facts.workers:
        yield Finding("workers", Verdict.OK, f"{facts.workers} alive")
    else:
        yield Finding("workers", Verdict.FAULT, "none is alive: start `flujo worker --pipelines MODULE`")
    names = ", ".join(facts.pipelines) or "none published: start a worker with --pipelines or FLUJO_PIPELINES"
    yield Finding("pipelines", Verdict.OK if facts.pipelines else Verdict.WARNING, names)


def _waiting(facts: Facts) -> Iterator[Finding]:
    if facts.unarchived is not None:
        late = facts.unarchived > _MOST_UNARCHIVED
        remedy = ": does the backend answer, and has `flujo manager` FLUJO_STATE_URI?" if late else ""
        text = f"{facts.unarchived} finished runs wait for it{remedy}"
        yield Finding("archive", Verdict.WARNING if late else Verdict.OK, text)
    for step, runs in sorted(facts.missing.items()):
        text = f"no worker has {step}, {runs} runs wait for it: start a worker with its module in --pipelines"
        yield Finding("steps", Verdict.FAULT, text)
    for queue, count in sorted(facts.untaken.items()):
        text = f"no worker ever took one of the {count} steps in queue {queue}: start `flujo worker --queues {queue}`"
        yield Finding("queues", Verdict.FAULT, text)


async def _look() -> Facts:
    async with AsyncFlujoClient() as client:
        refusal = None
        try:
            await client.check()
        except StateUnavailableError as error:
            return Facts(redis=str(error), reachable=False)
        except UnsafeRedisError as error:
            refusal = str(error)
        try:
            return await _look_inside(client, refusal)
        except (RedisError, OSError) as error:
            raise StateUnavailableError(
                f"Redis does not answer: {str(error).rstrip('.')}.", suggestion="Ask again."
            ) from error


async def _look_inside(client: AsyncFlujoClient, refusal: str | None) -> Facts:
    inspector = client.inspector
    under_way = [run for run in await inspector.runs(_MOST_RUNS) if not run.status.terminal]
    missing: Counter[str] = Counter()
    for run in under_way:
        try:
            waits = await inspector.waits(run.run_id)
        except FlujoError:  # it ended meanwhile, or a newer release started it
            continue
        missing.update({step.declined for step in waits.queued if step.declined})
    managers, workers = set[bytes](), set[bytes]()  # each is known to every shard
    waiting: Counter[str] = Counter()
    unarchived = 0
    losses = []
    for shard in range(client.keyspace.shards):
        managers.update(await _living(client.client, client.keyspace, "managers", shard))
        workers.update(await _living(client.client, client.keyspace, "incarnations", shard))
        losses.append(await client.client.hget(client.keyspace.shard("sweep", shard), LOSS))
        waiting.update(await _untaken(client.client, client.keyspace, shard))
        unarchived += await client.client.zcard(client.keyspace.shard("unarchived", shard))
    published = await client.client.hkeys(client.keyspace.shard("pipelines"))
    return Facts(
        redis=refusal,
        append_only=await _append_only(client),
        broker=await _broker_fault(client),
        managers=sum(name.startswith(b"pool-") for name in managers),
        workers=len(workers),
        pipelines=tuple(sorted(name.decode() for name in published if b"@" not in name and b"==" not in name)),
        unmanaged=sum(run.unmanaged and run.status is not RunStatus.PAUSED for run in under_way),
        missing=dict(missing),
        untaken=dict(waiting),
        loss=max((Loss(**from_json(text)) for text in losses if text), key=lambda loss: loss.until_ms, default=None),
        unarchived=unarchived if client.settings.state_uri is not None else None,
    )


async def _living(client: RedisClient, keyspace: Keyspace, kind: str, shard: int) -> list[bytes]:
    """The processes of a kind (`incarnations` of workers, `managers`) whose deadline has not passed, by Redis' clock."""
    seconds, micros = await client.time()
    now_ms = seconds * 1000 + micros // 1000
    members: list[bytes] = await client.zrangebyscore(keyspace.shard(kind, shard), now_ms, "+inf")
    return members


async def _untaken(client: RedisClient, keyspace: Keyspace, shard: int) -> Counter[str]:
    """Dispatches by queue, of the queues whose intake has no `latest`: reserve.lua sets it when a worker takes a step."""
    waiting: Counter[str] = Counter()
    async for member, _ in client.zscan_iter(keyspace.shard("dispatches", shard), count=_PAGE):
        waiting[member.decode().rpartition(" ")[2]] += 1
    intake = await client.hgetall(keyspace.shard("intake", shard))
    return Counter({queue: count for queue, count in waiting.items() if f"{queue}|latest".encode() not in intake})


async def _append_only(client: AsyncFlujoClient) -> bool | None:
    try:
        persistence = await client.client.info("persistence")
    except ResponseError:  # INFO is forbidden for this user
        return None
    return bool(persistence.get("aof_enabled"))


async def _broker_fault(client: AsyncFlujoClient) -> str | None:
    publisher = make_publisher(client.settings)
    try:
        await publisher.depth(DEFAULT_QUEUE)
    except FlujoError as error:
        return str(error)
    finally:
        await publisher.close()
    return None
