"""Pipelines that stream, for workers."""

from __future__ import annotations

from collections.abc import AsyncIterator

from flujo_client import Pipeline, Step, StepRun, step
from tests.integration.pipelines import pass_gate


@step
async def tell(name: str) -> AsyncIterator[str]:
    yield "one "
    await pass_gate(name)
    for _ in range(3000):
        yield "x"


@step
async def dump(size: int, run: StepRun) -> int:
    await run.emit({"size": size, "text": "y" * size})
    await run.emit(b"\x00\xff")
    return size


@step
async def pour(count: int, run: StepRun) -> int:
    for number in range(count):
        await run.emit({"number": number, "text": "z" * 8_000})
    return count


#: What `falter` shows in each attempt: equal to one another, and text among them.
TICKS = ({"tick": True}, {"tick": True}, "tock", {"tick": True})


@step(max_retries=1)
async def falter(name: str, run: StepRun) -> AsyncIterator[dict[str, bool] | str]:
    for tick in TICKS:
        yield tick
    if run.attempt == 1:
        raise ConnectionError("the provider hung up")


class Pieces:
    async def run(self, text: str) -> str:
        return text

    async def stream(self, text: str) -> AsyncIterator[str]:
        for _ in range(2):
            yield text


telling = Pipeline([tell], name="telling")
dumping = Pipeline([dump], name="dumping")
pouring = Pipeline([pour], name="pouring")
faltering = Pipeline([falter], name="faltering")
pieces = Pipeline([Step(name="pieces", agent=Pieces())], name="pieces")
