"""Pipelines of many at once, and of humans: eight hundred branches on one budget, and a question between two steps."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from pydantic import BaseModel

from flujo_client import BranchFailureStrategy, Pipeline, Step, StepRun
from tests.faults.workload import ANYWHERE, TOKENS_EXPECTED, Baton, bill, carry, note

#: Branches, and of each hundred those that fail.
WIDTH, FAILING = 800, 30


def fails(run_id: str, path: str) -> bool:
    """Whether a branch is one of those that fail: the same in every attempt."""
    return zlib.crc32(f"{run_id}/{path}".encode()) % 100 < FAILING


async def shoot(baton: Baton, run: StepRun) -> Baton:
    """Bills, and then fails or not."""
    note("started", run, saw=[baton.maker])
    await asyncio.sleep(baton.pace_ms / 1000)
    bill(run)
    if fails(run.run_id, run.path):
        raise ValueError("one of those that fail")
    return Baton(count=1, maker=(run.path, run.nonce))


async def gather(results: dict[str, Any], run: StepRun) -> Baton:
    """What failed is in the output too, as its step result."""
    hits = [Baton.model_validate(result) for result in results.values() if "maker" in result]
    note("started", run, saw=[hit.maker for hit in hits])
    bill(run)
    return Baton(count=len(hits), maker=(run.path, run.nonce))


class Answer(BaseModel):
    """What a human says, and who it is."""

    by: str


async def conclude(answer: Answer, run: StepRun) -> Baton:
    note("started", run, answer=answer.by)
    bill(run)
    return Baton(count=2, maker=(run.path, run.nonce))


def _step(function: Any) -> Step[Any, Any]:
    name = function.__name__
    return Step.from_callable(function, name=name, queue=ANYWHERE, max_retries=0, expected_tokens=TOKENS_EXPECTED)


_branches: dict[str, Any] = {f"b{number}": _step(shoot) for number in range(WIDTH)}
_crowd = Step.parallel("crowd", _branches, on_branch_failure=BranchFailureStrategy.IGNORE)
crowd = Pipeline([_step(carry), _crowd, _step(gather)], name="crowd_800")

_ask = Step.human_in_the_loop("ask", message_for_user="Go on?", input_schema=Answer)
asked = Pipeline([_step(carry), _ask, _step(conclude)], name="asked")
