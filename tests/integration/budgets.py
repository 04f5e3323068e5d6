"""Pipelines on a budget, for the tests' workers."""

from __future__ import annotations

import asyncio

from flujo_client import Pipeline, Step, StepRun, step
from tests.integration.pipelines import ledger


@step(expected_tokens=40, max_retries=0)
async def greedy(value: int, run: StepRun) -> int:
    """Asks for far more than it uses."""
    ledger("bill", run, tokens=10)
    run.usage.add(tokens=10)
    await asyncio.sleep(0.01)
    return value


crowd = Pipeline([Step.parallel("crowd", {f"b{index}": greedy for index in range(6)})], name="crowd")
