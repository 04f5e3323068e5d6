"""Pipelines whose steps are poison, and odd payloads, for the workers of the fault tests."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from typing import Any

from flujo_client import Pipeline, Step, StepRun
from tests.faults.workload import FAR, gate_of, note

#: The queue that only workers with a supervisor serve.
POISON = "poison"


async def exits(number: int, run: StepRun) -> int:
    note("started", run)
    os._exit(3)


async def crashes(number: int, run: StepRun) -> int:
    note("started", run)
    os.kill(os.getpid(), signal.SIGSEGV)
    await asyncio.sleep(60)
    return number


async def spins(number: int, run: StepRun) -> int:
    """Never awaits: nothing else of its process runs."""
    note("started", run)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        number += 1
    return number


async def raises_exit(number: int, run: StepRun) -> int:
    note("started", run)
    raise SystemExit(3)


async def takes_no_notice(number: int, run: StepRun) -> int:
    """Swallows what should end it, for a while."""
    note("started", run)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            note("ignored", run)
    return number


async def eats(number: int, run: StepRun) -> int:
    """Takes all the memory there is."""
    note("started", run)
    eaten: list[bytearray] = []
    while True:
        eaten.append(bytearray(64 << 20))
        await asyncio.sleep(0)


async def returns_garbage(number: int, run: StepRun) -> Any:
    note("started", run)
    return object()


async def returns_nan(number: int, run: StepRun) -> float:
    note("started", run)
    return math.nan


async def returns_large(number: int, run: StepRun) -> str:
    note("started", run)
    return "x" * number


async def returns_deep(number: int, run: StepRun) -> Any:
    note("started", run)
    deep: Any = "\0"
    for _ in range(number):
        deep = [deep]
    return deep


async def counts(anything: Any, run: StepRun) -> int:
    note("started", run)
    return len(str(anything))


def _alone(function: Any, queue: str, **terms: Any) -> Pipeline:
    name = function.__name__
    return Pipeline([Step.from_callable(function, name=name, queue=queue, max_retries=0, **terms)], name=name)


for _function in (exits, crashes, spins, raises_exit, returns_garbage, eats):
    globals()[f"{_function.__name__}_"] = _alone(_function, POISON)
takes_no_notice_ = _alone(takes_no_notice, POISON, timeout_s=0.3)
for _function in (returns_nan, returns_large, returns_deep):
    first: Any = Step.from_callable(_function, name=_function.__name__, queue=FAR, max_retries=0)
    second: Any = Step.from_callable(counts, name="counts", queue=FAR)
    globals()[f"{_function.__name__}_"] = Pipeline([first, second], name=_function.__name__)
_wide: Any = {f"b{number}": Step.from_callable(returns_nan, name="n", queue=FAR) for number in range(300)}
wide = Pipeline([Step.parallel("wide", _wide), Step.from_callable(counts, name="counts", queue=FAR)], name="wide")


async def fragile(number: int, run: StepRun) -> int:
    """Kills its worker until its run's gate is open."""
    note("started", run)
    if not gate_of(run.run_id).exists():
        os._exit(3)
    return number + 1


_next: Any = Step.from_callable(counts, name="counts", queue=POISON)
_waits: Any = Step.from_callable(fragile, name="fragile", queue=POISON, on_worker_lost="pause")
_fails: Any = Step.from_callable(fragile, name="fragile", queue=POISON)
fragile_waits = (_next >> _waits >> _next).named("fragile_waits")
fragile_fails = (_next >> _fails >> _next).named("fragile_fails")


async def notices(number: int, run: StepRun) -> int:
    """Tells the ledger when it is cancelled."""
    note("started", run)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        note("cancelled", run)
        raise
    return number


notices_ = Pipeline([Step.from_callable(notices, name="notices", max_retries=0), _next], name="notices")
