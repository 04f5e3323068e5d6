"""A pipeline whose second step is another function after a deploy; DEPLOY says which release a worker has."""

from __future__ import annotations

import os
from typing import Any

from flujo_client import Pipeline, PipelineContext, StepRun, step
from tests.integration.pipelines import ledger

__all__ = ["deployed", "nested"]


async def note(call: Any, proceed: Any) -> Any:
    """A policy of the module's own, around every step's function."""
    output = await proceed(call)
    ledger("policy", call.injected["run"])
    return output


flujo_policies = [note]


@step
async def collect(text: str, run: StepRun) -> str:
    ledger("bill", run)
    run.usage.add(tokens=3)
    return f"{text}+collected"


@step
async def deepen(text: str, run: StepRun, *, context: PipelineContext) -> str:
    ledger("bill", run)
    run.usage.add(tokens=3)
    context.call_count += 1
    return f"{text}+deepened {context.call_count}"


nested = Pipeline(
    [collect, Pipeline([deepen, deepen.model_copy(update={"name": "deepen_again"}), collect]).as_step("inner")],
    name="nested",
)

if os.environ.get("DEPLOY") == "new":

    @step
    async def rank(text: str, run: StepRun) -> str:
        ledger("bill", run)
        return f"{text}+ranked"

    deployed = Pipeline([collect, rank], name="deployed", version="2.0")
else:

    @step
    async def score(text: str, run: StepRun) -> str:
        ledger("bill", run)
        return f"{text}+scored"

    deployed = Pipeline([collect, score], name="deployed", version="1.0")
