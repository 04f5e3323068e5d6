"""Pipelines that the tests' workers serve. Steps tell a ledger outside Redis what they do, and wait where a test wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, model_validator

from flujo_client import Pipeline, PipelineContext, Step, StepRun, step

LEDGER_VARIABLE = "TEST_LEDGER"


def ledger(kind: str, run: StepRun, **facts: Any) -> None:
    """Append one line and wait until it is on disk."""
    line = {"kind": kind, "run_id": run.run_id, "path": run.path, "attempt": run.attempt, "nonce": run.nonce}
    line |= {"pid": os.getpid(), "parent": os.getppid(), "at_ms": round(time.time() * 1000), **facts}
    handle = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


async def pass_gate(name: str) -> None:
    """Wait until a test opens a gate: a file beside the ledger."""
    gate = Path(os.environ[LEDGER_VARIABLE]).with_name(f"gate-{name}")
    while not gate.exists():
        await asyncio.sleep(0.02)


class Page(BaseModel):
    url: str
    words: int = 0


class Summary(BaseModel):
    text: str


@step(expected_tokens=10)
async def fetch(page: Page, run: StepRun) -> Page:
    ledger("bill", run)
    run.usage.add(tokens=4)
    return page.model_copy(update={"words": len(page.url)})


@step(expected_tokens=10)
async def shout(page: Page, run: StepRun) -> str:
    ledger("bill", run)
    run.usage.add(tokens=3)
    return page.url.upper()


@step(expected_tokens=10)
def measure(page: Page, run: StepRun) -> int:
    ledger("bill", run)
    run.usage.add(tokens=2)
    return page.words


@step
async def combine(parts: dict[str, Any], run: StepRun) -> Summary:
    ledger("bill", run)
    return Summary(text=f"{parts['shout']} {parts['measure']}")


digest = (fetch >> Step.parallel("read", {"shout": shout, "measure": measure}) >> combine).named("digest")


class Stopping(BaseModel):
    """The process that reads it first is stopped: between its claim and the step's body."""

    name: str

    @model_validator(mode="after")
    def _stop_once(self) -> Stopping:
        marker = Path(os.environ[LEDGER_VARIABLE]).with_name(f"stopped-{self.name}")
        try:
            with marker.open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return self
        os.kill(os.getpid(), signal.SIGSTOP)
        return self


@step
async def stopping(value: Stopping, run: StepRun) -> str:
    ledger("bill", run)
    return value.name


stops = Pipeline([stopping], name="stops")


@step
async def increment(number: int) -> int:
    return number + 1


chain = Pipeline([increment] * 5, name="chain")


@step(max_retries=0)
async def held(gate: str, run: StepRun) -> str:
    """Start, wait for the gate, bill, return."""
    ledger("started", run)
    await pass_gate(gate)
    ledger("bill", run)
    return gate


@step
async def after(gate: str, run: StepRun) -> str:
    ledger("bill", run)
    return f"after {gate}"


beside = Pipeline(
    [held.model_copy(update={"config": held.config.model_copy(update={"execution_mode": "background"})}), after],
    name="beside",
)
holding = (held >> after).named("holding")


@step
async def billed(number: int, run: StepRun) -> int:
    """A short step that bills, for kills at random moments."""
    ledger("started", run)
    await asyncio.sleep(0.01)
    ledger("bill", run)
    return number + 1


steady = Pipeline([billed] * 6, name="steady")


@step(max_retries=2, backoff_s=0.05)
async def flaky(number: int, run: StepRun) -> int:
    if run.attempt < 3:
        raise ValueError("not yet")
    return number


retried = Pipeline([flaky], name="retried")


@step
async def unserialisable(number: int) -> Any:
    return object()


rubbish = Pipeline([unserialisable], name="rubbish")


@step
async def untyped(number: int) -> Any:
    return {"not": "a number"}


mismatched = (untyped >> increment).named("mismatched")


@step(max_retries=0)
async def large(size: int) -> str:
    return "x" * size


@step
async def length(text: str) -> int:
    return len(text)


oversized = (large >> length).named("oversized")


class Tally(PipelineContext):
    total: int = 0


@step
async def tally(number: int, *, context: Tally) -> int:
    context.total += number
    return number


tallied = Pipeline([tally, tally, tally], name="tallied")

wide = Pipeline([Step.parallel("all", {f"b{index}": increment for index in range(40)})], name="wide")


@step
def block(gate: str, run: StepRun) -> str:
    """A sync step that blocks its thread until the gate opens."""
    ledger("started", run)
    asyncio.run(pass_gate(gate))
    return gate


blocking = Pipeline([block], name="blocking")


class Stage(BaseModel):
    """Where a run of `staged` is, and at which of its steps it waits for the gate of its run id."""

    number: int = 0
    hold_at: int | None = None
    billed_first: bool = False


@step(max_retries=0)
async def advance_stage(stage: Stage, run: StepRun) -> Stage:
    """Waits, where the input says so, before or after its bill, so that a kill meets an exact moment."""
    holds = stage.number == stage.hold_at
    ledger("started", run)
    if holds and not stage.billed_first:
        await pass_gate(run.run_id)
    ledger("bill", run)
    if holds and stage.billed_first:
        await pass_gate(run.run_id)
    return stage.model_copy(update={"number": stage.number + 1})


STAGES = 6

staged = Pipeline([advance_stage] * STAGES, name="staged")


@step(max_retries=0, expected_tokens=10)
async def metered_hold(gate: str, run: StepRun) -> str:
    """Bills four tokens, of ten that it expected, once the gate is open."""
    ledger("started", run)
    await pass_gate(gate)
    run.usage.add(tokens=4)
    ledger("bill", run)
    return gate


metered = (metered_hold >> after).named("metered")

stopped = (after >> held >> after).named("stopped")


@step(max_retries=1, timeout_s=0.2)
async def hangs(gate: str, run: StepRun) -> str:
    ledger("started", run)
    await pass_gate(gate)
    return gate


timed = Pipeline([hangs], name="timed")


@step(max_retries=3, backoff_s=0.3, jitter=False)
async def stubborn(number: int, run: StepRun) -> int:
    ledger("started", run)
    if run.attempt < 4:
        raise ConnectionError(f"refused, attempt {run.attempt}")
    return number


backing_off = Pipeline([stubborn], name="backing_off")


@step(max_retries=0)
async def hopeless(number: int) -> int:
    raise ValueError(f"no good: {number}")


failing = (increment >> hopeless >> increment).named("failing")


@step(expected_tokens=5)
async def spend(number: int, run: StepRun) -> int:
    """Uses as many tokens as its input says."""
    run.usage.add(tokens=number)
    return number


@step(expected_tokens=5)
async def spend_twice(number: int, run: StepRun) -> int:
    """Makes sure of the same amount again before using it."""
    run.usage.add(tokens=number)
    await run.usage.reserve(tokens=2 * number)
    run.usage.add(tokens=number)
    return 2 * number


@step
async def total(parts: dict[str, Any]) -> int:
    return sum(parts.values())


sharing = Pipeline(
    [Step.parallel("share", {"one": spend, "two": spend >> spend, "three": spend_twice}), total], name="sharing"
)


class Findings(PipelineContext):
    total: int = 0
    seen: list[str] = Field(default_factory=list)


@step
async def note_one(number: int, *, context: Findings) -> int:
    context.total += number
    context.seen.append("one")
    return number


@step
async def note_two(number: int, *, context: Findings) -> int:
    context.total += 10 * number
    context.seen.append("two")
    return number


@step
async def told(parts: dict[str, Any], *, context: Findings) -> str:
    return f"{context.total} {'+'.join(context.seen)}"


noting = (Step.parallel("notes", {"one": note_one, "two": note_two}) >> told).named("noting")


@step
def burn(gate: str, run: StepRun) -> int:
    """A sync step that computes without ever yielding, until a test has seen that its neighbours run too."""
    ledger("started", run)
    gates = Path(os.environ[LEDGER_VARIABLE]).with_name(f"gate-{gate}")
    number = 0
    while not gates.exists():
        number = sum(value * value for value in range(20_000))
    return number


burning = Pipeline([burn], name="burning")


@step(max_retries=0)
async def awaits_cancelled(number: int, run: StepRun) -> int:
    """Awaits a task that somebody cancelled, as a client library with a timeout of its own may."""
    ledger("started", run)
    other = asyncio.ensure_future(asyncio.sleep(60))
    other.cancel()
    await other
    return number


cancelled_inside = Pipeline([awaits_cancelled], name="cancelled_inside")


@step(max_retries=0)
async def counts_in_floats(number: int, run: StepRun) -> int:
    ledger("started", run)
    run.usage.add(tokens=number / 4)  # type: ignore[arg-type]  # what user code does
    return number


miscounted = Pipeline([counts_in_floats], name="miscounted")


@step(max_retries=0)
async def take_no_notice(gate: str, run: StepRun) -> str:
    """Cannot be cancelled, as code with a bare `except` may be."""
    ledger("started", run)
    while True:
        try:
            await pass_gate(gate)
        except asyncio.CancelledError:
            continue
        return gate


unheeding = Pipeline([take_no_notice], name="unheeding")


@step(max_retries=0, timeout_s=0.3)
def hang(gate: str, run: StepRun) -> str:
    """A sync step that outlives its timeout, as a client library without one may, until the gate opens."""
    ledger("started", run)
    asyncio.run(pass_gate(gate))
    return gate


hanging = Pipeline([hang], name="hanging")
