"""Pipelines of the fault tests. Every step tells the ledger what it saw, and passes on who made its output."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flujo_client import Pipeline, PipelineContext, Step, StepRun, UsageLimits

LEDGER_VARIABLE = "TEST_LEDGER"

#: What every attempt bills, and what it reserves before.
TOKENS_BILLED = 4
TOKENS_EXPECTED = 10

#: What a run may spend: enough for every step to be lost twice.
LIMIT = UsageLimits(total_tokens_limit=60 * TOKENS_EXPECTED)

#: Queues: of the steps that any worker takes, that the worker under the fault takes too, and of processes that compute.
ANYWHERE, FAR, CPU = "default", "far", "cpu"


class Baton(BaseModel):
    """What goes from step to step.

    Attributes:
        count: Steps behind it.
        maker: Path and nonce of the attempt that made it.
        hold_at: The step with so many behind it waits for its run's gate.
        billed_first: Whether it bills before it waits, or after.
        pace_ms: How long each step takes.
        laps: After how many steps a loop ends.
    """

    count: int = 0
    maker: tuple[str, str] = ("", "")
    hold_at: int | None = None
    billed_first: bool = False
    pace_ms: int = 10
    laps: int = 4


def now_ms() -> int:
    """The machine's clock, whatever a test does to the process' own."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000


def note(kind: str, run: StepRun, **facts: Any) -> None:
    """Append one line to the ledger and wait until it is on disk."""
    line = {"kind": kind, "run_id": run.run_id, "path": run.path, "attempt": run.attempt, "nonce": run.nonce}
    line |= {"pid": os.getpid(), "at_ms": now_ms(), **facts}
    handle = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def gate_of(name: str) -> Path:
    """The file that opens a gate."""
    return Path(os.environ[LEDGER_VARIABLE]).with_name(f"gate-{name}")


def bill(run: StepRun) -> None:
    """What a provider would do: the money is gone."""
    run.usage.add(tokens=TOKENS_BILLED)
    note("bill", run, tokens=TOKENS_BILLED)


def passed_on(batons: Sequence[Baton], run: StepRun) -> Baton:
    last = max(batons, key=lambda baton: baton.count)
    return last.model_copy(update={"count": last.count + 1, "maker": (run.path, run.nonce)})


async def _work(batons: Sequence[Baton], run: StepRun) -> Baton:
    note("started", run, saw=[baton.maker for baton in batons])
    last = max(batons, key=lambda baton: baton.count)
    holds = last.count == last.hold_at
    if holds and not last.billed_first:
        await _gate(run.run_id)
    bill(run)
    if holds and last.billed_first:
        await _gate(run.run_id)
    await asyncio.sleep(last.pace_ms / 1000)
    return passed_on(batons, run)


async def _gate(name: str) -> None:
    gate = gate_of(name)
    while not gate.exists():
        await asyncio.sleep(0.02)


async def carry(baton: Baton, run: StepRun) -> Baton:
    return await _work([baton], run)


async def join(batons: dict[str, Baton], run: StepRun) -> Baton:
    return await _work(list(batons.values()), run)


async def talk(baton: Baton, run: StepRun) -> Baton:
    """Shows what it does, and makes sure of more than it expected."""
    note("started", run, saw=[baton.maker])
    await run.emit(baton.count)
    await run.usage.reserve(tokens=TOKENS_EXPECTED + TOKENS_BILLED)
    bill(run)
    return passed_on([baton], run)


def grind(baton: Baton, run: StepRun) -> Baton:
    """A sync step, as a process of the prefork pool runs it."""
    note("started", run, saw=[baton.maker])
    holds = baton.count == baton.hold_at
    if holds and not baton.billed_first:
        asyncio.run(_gate(run.run_id))
    bill(run)
    if holds and baton.billed_first:
        asyncio.run(_gate(run.run_id))
    time.sleep(baton.pace_ms / 1000)
    return passed_on([baton], run)


def done(baton: Baton, context: PipelineContext) -> bool:
    return baton.count >= baton.laps


def is_even(baton: Baton, context: PipelineContext) -> bool:
    return baton.count % 2 == 0


def _step(function: Any, name: str, queue: str) -> Step[Any, Any]:
    return Step.from_callable(function, name=name, queue=queue, max_retries=0, expected_tokens=TOKENS_EXPECTED)


def _pipelines(queue: str) -> dict[str, Pipeline]:
    """One of each kind of node, on one queue."""
    carried, joined = _step(carry, "carry", queue), _step(join, "join", queue)
    branches: dict[str, Any] = {"a": carried, "b": carried >> carried, "c": carried}
    choice = Step.branch_on("choose", is_even, {True: carried, False: carried >> carried})
    made = {
        "relay": Pipeline([carried] * 5),
        "fork": carried >> Step.parallel("split", branches) >> joined >> carried,
        "lap": carried >> Step.loop_until("laps", carried >> carried, done, max_loops=6) >> carried,
        "choice": carried >> choice >> carried,
    }
    return {f"{name}_{queue}": pipeline.named(f"{name}_{queue}") for name, pipeline in made.items()}


KINDS = ("relay", "fork", "lap", "choice")

globals().update(_pipelines(ANYWHERE) | _pipelines(FAR))

talk_far = Pipeline([_step(talk, "talk", FAR)] * 3, name="talk_far")

relay_cpu = Pipeline([_step(grind, "grind", CPU)] * 4, name="relay_cpu")
