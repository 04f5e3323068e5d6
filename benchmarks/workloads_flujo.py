"""The benchmark's work as pipelines."""

from __future__ import annotations

import asyncio

from flujo_client import Pipeline, Step, step

__all__ = ["flujo_chain", "flujo_fan", "flujo_megabyte", "flujo_sleeping"]


@step
async def increment(number: int) -> int:
    """A step that does nothing worth measuring."""
    return number + 1


@step
async def sleep(number: int) -> int:
    """A step that waits 100 ms, as for an answer of a model."""
    await asyncio.sleep(0.1)
    return number


@step
async def rotate(text: str) -> str:
    """A step that passes on as much as it gets, but never the same."""
    return text[1:] + text[:1]


@step
async def join(parts: dict[str, int]) -> int:
    """What follows the branches."""
    return len(parts)


flujo_chain = Pipeline([increment] * 10, name="chain")
flujo_fan = (Step.parallel("fan", {f"b{index}": increment for index in range(100)}) >> join).named("fan")
flujo_sleeping = Pipeline([sleep] * 3, name="sleeping")
flujo_megabyte = Pipeline([rotate] * 5, name="megabyte")
