"""A pipeline whose workers' module has hooks; they act on its own steps only."""

from __future__ import annotations

from flujo_client import Pipeline, PostStepPayload, PreStepPayload, Step, step
from flujo_client.protocol.errors import PipelineAbortSignal


@step
async def start(number: int) -> int:
    return number + 1


@step
async def tripwire(number: int) -> int:
    return number


@step
async def beyond(number: int) -> int:
    return number


def stop_after(payload: PostStepPayload) -> None:
    if payload.step_result.name == "tripwire" and payload.step_result.output == 2:
        raise PipelineAbortSignal("the worker's hook stops after it")


def stop_before(payload: PreStepPayload) -> None:
    if payload.step.name == "tripwire" and payload.step_input == 3:
        raise PipelineAbortSignal("the worker's hook stops before it")


flujo_hooks = [stop_after, stop_before]

hooked = Pipeline([start, tripwire, Step.parallel("both", {"a": beyond, "b": beyond})], name="hooked")
