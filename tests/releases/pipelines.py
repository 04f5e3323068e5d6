"""The pipelines of the recorded runs. What is here stays as it is: runs of earlier releases name these functions."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from flujo_client import Pipeline, PipelineContext, Step, StepRun, step
from tests.integration.pipelines import ledger, pass_gate

#: The gate at which recorded runs were held.
GATE = "release"

TOKENS = 4


class Sums(PipelineContext):
    total: int = 0


class Approval(BaseModel):
    approved: bool


@step(expected_tokens=10)
async def bill(number: int, run: StepRun, *, context: Sums) -> int:
    ledger("bill", run)
    run.usage.add(tokens=TOKENS)
    context.total += number
    return number + 1


@step(max_retries=0, expected_tokens=10)
async def held(number: int, run: StepRun) -> int:
    ledger("started", run)
    await pass_gate(GATE)
    ledger("bill", run)
    run.usage.add(tokens=TOKENS)
    return number + 1


@step
async def add(parts: dict[str, Any]) -> int:
    return int(sum(parts.values()))


@step
async def conclude(approval: Approval, *, context: Sums) -> str:
    return f"{approval.approved} of {context.total}"


def _enough(output: Any, context: Any) -> bool:
    return int(output) >= 4


finished = (bill >> bill).named("release-finished")
running = (bill >> held >> bill).named("release-running")
budget = (bill >> Step.parallel("share", {"one": bill, "two": held >> bill}) >> add).named("release-budget")
looping = Pipeline([Step.loop_until("loop", bill >> held, _enough, max_loops=5)], name="release-looping")
ask = Step.human_in_the_loop("ask", message_for_user="Publish {{ previous_step }}?", input_schema=Approval)
paused = (bill >> ask >> conclude).named("release-paused")
