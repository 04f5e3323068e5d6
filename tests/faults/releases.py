"""Two releases of pipelines, side by side on workers: a step was added, one removed, one renamed, and a type changed."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import BaseModel

from flujo_client import Pipeline, Step, StepRun
from tests.faults.workload import TOKENS_EXPECTED, Baton, bill, gate_of, note, passed_on

#: Which release a worker has.
RELEASE_VARIABLE = "FAULT_RELEASE"

#: The queue that only workers of a release serve.
RELEASED = "released"

#: What each release's runs go through.
STEPS = {"1.0": ("first", "score", "count", "last"), "2.0": ("first", "extra", "tally", "last")}


async def _work(name: str, baton: Baton, run: StepRun) -> Baton:
    note("started", run, saw=[baton.maker], function=name)
    if baton.count == baton.hold_at:
        while not gate_of(run.run_id).exists():
            await asyncio.sleep(0.02)
    bill(run)
    await asyncio.sleep(baton.pace_ms / 1000)
    return passed_on([baton], run)


async def first(baton: Baton, run: StepRun) -> Baton:
    return await _work("first", baton, run)


async def last(baton: Baton, run: StepRun) -> Baton:
    return await _work("last", baton, run)


class Weight(BaseModel):
    """What the new release passes on where the old one passes a baton."""

    grams: int


def _step(function: Any) -> Step[Any, Any]:
    name = function.__name__
    return Step.from_callable(function, name=name, queue=RELEASED, max_retries=0, expected_tokens=TOKENS_EXPECTED)


if os.environ.get(RELEASE_VARIABLE) == "2.0":

    async def extra(baton: Baton, run: StepRun) -> Baton:
        return await _work("extra", baton, run)

    async def tally(baton: Baton, run: StepRun) -> Baton:
        return await _work("tally", baton, run)

    async def weigh(baton: Baton, run: StepRun) -> Weight:
        await _work("weigh", baton, run)
        return Weight(grams=7)

    async def close(weight: Weight, run: StepRun) -> int:
        await _work("close", Baton(count=1), run)
        return weight.grams

    released = Pipeline([_step(function) for function in (first, extra, tally, last)], name="released", version="2.0")
    retyped = Pipeline([_step(weigh), _step(close)], name="retyped", version="2.0")
else:

    async def score(baton: Baton, run: StepRun) -> Baton:
        return await _work("score", baton, run)

    async def count(baton: Baton, run: StepRun) -> Baton:
        return await _work("count", baton, run)

    async def weigh(baton: Baton, run: StepRun) -> Baton:  # type: ignore[misc]  # the other release's has another type
        return await _work("weigh", baton, run)

    async def close(baton: Baton, run: StepRun) -> int:  # type: ignore[misc]
        return (await _work("close", baton, run)).count

    released = Pipeline([_step(function) for function in (first, score, count, last)], name="released", version="1.0")
    retyped = Pipeline([_step(weigh), _step(close)], name="retyped", version="1.0")
