"""A pipeline that tells a story in chunks, for the fault test of streams."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_client import Pipeline, Step, StepRun
from tests.faults.workload import TOKENS_EXPECTED, Baton, bill, gate_of, note, passed_on

#: The queue that only workers with a small bound of streams serve.
STORY = "story"

CHUNK_BYTES = 1_000


async def tell(baton: Baton, run: StepRun) -> Baton:
    """`laps` chunks, the half of them before its run's gate."""
    note("started", run, saw=[baton.maker])
    for number in range(baton.laps):
        if number == baton.laps // 2:
            note("halfway", run)
            while not gate_of(run.run_id).exists():
                await asyncio.sleep(0.02)
        await run.emit({"number": number, "text": "x" * CHUNK_BYTES})
        await asyncio.sleep(baton.pace_ms / 1000)
    bill(run)
    return passed_on([baton], run)


_tell: Any = Step.from_callable(tell, name="tell", queue=STORY, max_retries=0, expected_tokens=TOKENS_EXPECTED)
telling = Pipeline([_tell], name="telling")
