"""Cached steps in process: what is a hit, what it costs, and that one makes what several want."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import Flujo, InMemoryCache, Pipeline, PipelineContext, RunStatus, Step


class Notes(PipelineContext):
    counter: int = 0
    topic: str = ""


class Calls:
    """A step that counts how often it really ran."""

    def __init__(self) -> None:
        self.count = 0

    async def work(self, number: int, *, context: Notes, run: Any) -> int:
        self.count += 1
        run.usage.add(tokens=10)
        context.counter += 5
        if number < 0:
            raise ValueError("no")
        return number * 2

    def step(self, **options: Any) -> Step[Any, Any]:
        return Step.cached(Step.from_callable(self.work, max_retries=0), **options)


def _flujo(step: Step[Any, Any], **options: Any) -> Flujo:
    return Flujo(Pipeline([step]), context_model=Notes, **options)


async def test_the_same_again_is_a_hit_that_costs_nothing_and_changes_the_context_alike() -> None:
    calls = Calls()
    async with _flujo(calls.step()) as flujo:
        first, second = await flujo.run_async(4), await flujo.run_async(4)

    assert (first.output, second.output, calls.count) == (8, 8, 1)
    assert [result.step_history[0].metadata_["cache_hit"] for result in (first, second)] == [False, True]
    assert (first.total_tokens, second.total_tokens) == (10, 0)
    assert (first.final_pipeline_context.counter, second.final_pipeline_context.counter) == (5, 5)


async def test_another_input_or_context_is_another_result() -> None:
    calls = Calls()
    async with _flujo(calls.step()) as flujo:
        await flujo.run_async(4)
        await flujo.run_async(5)
        await flujo.run_async(4, initial_context_data={"topic": "other"})

    assert calls.count == 3


@pytest.mark.parametrize(("answers", "made"), [(("yes", "yes"), 1), (("yes", "no"), 2)])
async def test_after_a_question_the_same_answer_is_a_hit_and_another_is_none(
    answers: tuple[str, str], made: int
) -> None:
    calls = Calls()
    pipeline = Pipeline([Step.human_in_the_loop("ask", "Go on?"), Step.from_callable(_four), calls.step()])
    async with Flujo(pipeline, context_model=Notes) as flujo:
        results = [await flujo.resume_async(await flujo.run_async("x"), answer) for answer in answers]

    assert ([result.output for result in results], calls.count) == ([8, 8], made)


async def _four(answer: str) -> int:
    return 4


async def test_failures_are_not_kept() -> None:
    calls = Calls()
    async with _flujo(calls.step()) as flujo:
        first, second = await flujo.run_async(-1), await flujo.run_async(-1)

    assert (first.status, second.status, calls.count) == (RunStatus.FAILED, RunStatus.FAILED, 2)
    assert first.step_history[0].metadata_["cache_hit"] is False


async def test_of_several_that_want_the_same_one_makes_it() -> None:
    count, released = 0, asyncio.Event()

    async def slow(number: int) -> int:
        nonlocal count
        count += 1
        await released.wait()
        return number + 1

    async with Flujo(Pipeline([Step.cached(Step.from_callable(slow))])) as flujo:
        runs = [asyncio.create_task(_result(flujo, 1)) for _ in range(5)]
        while not count:
            await asyncio.sleep(0)
        released.set()
        results = await asyncio.gather(*runs)

    assert (count, {result.output for result in results}) == (1, {2})


async def _result(flujo: Flujo, value: int) -> Any:
    return await flujo.run_async(value)


async def test_it_is_kept_for_its_time() -> None:
    calls = Calls()
    async with _flujo(calls.step(ttl_s=0.001)) as flujo:
        await flujo.run_async(4)
        await asyncio.sleep(0.01)
        await flujo.run_async(4)

    assert calls.count == 2


async def test_a_cache_of_ones_own_is_used_by_every_runner() -> None:
    calls, backend = Calls(), InMemoryCache()

    results = [await _run_alone(calls, backend) for _ in range(2)]

    assert (calls.count, [result.output for result in results]) == (1, [8, 8])


async def _run_alone(calls: Calls, backend: Any) -> Any:
    async with _flujo(calls.step(cache_backend=backend)) as flujo:
        return await flujo.run_async(4)


async def test_a_cache_that_does_not_work_costs_the_hit_only() -> None:
    class Broken:
        def get(self, key: str) -> Any:
            raise ConnectionError("away")

        def set(self, key: str, value: Any, ttl: float | None = None) -> None:
            raise ConnectionError("away")

    calls = Calls()

    results = [await _run_alone(calls, Broken()) for _ in range(2)]

    assert (calls.count, [result.status for result in results]) == (2, [RunStatus.COMPLETED] * 2)


async def test_what_cannot_be_compared_is_never_a_hit() -> None:
    calls = 0

    async def look(value: Any) -> int:
        nonlocal calls
        calls += 1
        return calls

    async with Flujo(Pipeline([Step.cached(Step.from_callable(look))])) as flujo:
        await flujo.run_async(object())
        await flujo.run_async(object())

    assert calls == 2


async def test_resources_that_say_what_they_are_count() -> None:
    calls = Calls()
    backend = InMemoryCache()
    for resources in ({"model": "small"}, {"model": "large"}, {"model": "small"}):
        async with _flujo(calls.step(cache_backend=backend), resources=resources) as flujo:
            await flujo.run_async(4)

    assert calls.count == 2


async def test_pipelines_are_kept_as_well() -> None:
    calls = Calls()
    body = Pipeline([calls.step(), Step.from_callable(calls.work, name="again")])
    async with _flujo(Step.cached(body, name="both")) as flujo:
        first, second = await flujo.run_async(1), await flujo.run_async(1)

    assert (first.output, second.output, second.total_tokens) == (4, 4, 0)
    assert second.final_pipeline_context.counter == first.final_pipeline_context.counter


@pytest.mark.parametrize("ttl", [None, 60.0])
async def test_the_cache_of_one_process(ttl: float | None) -> None:
    cache = InMemoryCache()
    await cache.set("k", 1, ttl)
    await cache.set("gone", 1, 0.0)

    assert (await cache.get("k"), await cache.get("gone"), await cache.get("nothing")) == (1, None, None)
