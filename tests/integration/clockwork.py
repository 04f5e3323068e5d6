"""Pipelines with a step that its own process cannot end: only the managers' clock can."""

from __future__ import annotations

import asyncio

from flujo_client import Pipeline, StepRun, step
from tests.faults.workload import note
from tests.integration.pipelines import pass_gate

#: What `overrunning` may take.
TIMEOUT_S = 0.5


@step(max_retries=0, timeout_s=TIMEOUT_S)
async def overrun(gate: str, run: StepRun) -> str:
    """Takes no notice of its timeout, or of anything else, until the gate opens."""
    note("started", run)
    while True:
        try:
            await pass_gate(gate)
        except asyncio.CancelledError:
            continue
        return f"{gate} {run.nonce}"


overrunning = Pipeline([overrun], name="overrunning")


@step
async def probe(word: str) -> str:
    return word


probing = Pipeline([probe], name="probing")
