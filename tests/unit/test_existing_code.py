"""Code as users of the single-process library write it; only its import lines name another package."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import (
    Chunk,
    Failure,
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    Step,
    StepConfig,
    StepResult,
    StepRun,
    Success,
    UsageLimitExceededError,
    UsageLimits,
    step,
)


@step
async def draft(topic: str) -> str:
    return f"draft about {topic}"


@step(max_retries=2, timeout_s=30)
async def edit(text: str) -> str:
    return text.upper()


class EditorialContext(PipelineContext):
    words: int = 0


@step(updates_context=True)
async def count_words(text: str) -> dict[str, Any]:
    return {"words": len(text.split())}


class EchoAgent:
    """An agent as tests of existing code write it."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def run(self, data: Any, **kwargs: Any) -> Any:
        self.calls.append(data)
        return data


def test_a_runner_of_decorated_steps() -> None:
    result = Flujo(draft >> edit).run("rivers")

    assert isinstance(result, PipelineResult)
    assert result.success
    assert [part.output for part in result.step_history] == ["draft about rivers", "DRAFT ABOUT RIVERS"]
    assert result.step_history[0].attempts == 1
    assert result.total_cost_usd == 0.0


def test_a_runner_with_a_context_model() -> None:
    runner = Flujo(draft >> count_words, context_model=EditorialContext, initial_context_data={"initial_prompt": "x"})

    context = runner.run("rivers").final_pipeline_context

    assert isinstance(context, EditorialContext)
    assert context.words == 3
    assert context.initial_prompt == "x"


def test_an_agent_object_in_a_step() -> None:
    agent = EchoAgent()
    pipeline = Pipeline.from_step(Step(name="echo", agent=agent, config=StepConfig(max_retries=1)))

    assert Flujo(pipeline).run("hello").output == "hello"
    assert agent.calls == ["hello"]


def test_a_failing_step_ends_the_run_with_its_feedback_and_raises_nothing() -> None:
    async def fail(data: str) -> str:
        raise RuntimeError("boom")

    result = Flujo(draft >> Step.from_callable(fail, name="fail") >> edit).run("rivers")

    assert not result.success
    assert [part.name for part in result.step_history] == ["draft", "fail"]
    assert result.step_history[-1].feedback == "Agent execution failed with RuntimeError: boom"


async def test_awaiting_and_iterating_over_run_async() -> None:
    runner = Flujo(draft >> edit)

    awaited = await runner.run_async("rivers")
    iterated = [item async for item in runner.run_async("rivers")]

    assert awaited.output == "DRAFT ABOUT RIVERS"
    assert isinstance(iterated[-1], PipelineResult)
    assert (await runner.run_result_async("rivers")).output == awaited.output
    await runner.aclose()


@pytest.mark.parametrize("method", ["run_outcomes_async", "run_outcomes", "run_stream"])
async def test_outcomes_end_with_the_one_that_ends_the_run(method: str) -> None:
    async def fail(data: str) -> str:
        raise RuntimeError("boom")

    good = [item async for item in getattr(Flujo(draft), method)("rivers")]
    bad = [item async for item in getattr(Flujo(Step.from_callable(fail)), method)("rivers")]

    assert isinstance(good[-1], Success)
    assert good[-1].step_result.output == "draft about rivers"
    assert isinstance(bad[-1], Failure)
    assert "boom" in str(bad[-1].feedback)
    assert isinstance(bad[-1].step_result, StepResult)


async def test_run_with_events_gives_chunks_and_then_the_result() -> None:
    async def speak(text: str, run: StepRun) -> str:
        await run.emit("he")
        await run.emit("he")
        return text

    items = [item async for item in Flujo(Step.from_callable(speak)).run_with_events("x")]

    assert [item.data for item in items if isinstance(item, Chunk)] == ["he", "he"]
    assert isinstance(items[-1], PipelineResult)


def test_a_limit_raises_with_the_result_so_far() -> None:
    class Priced:
        cost_usd = 0.6
        token_counts = 10

    async def spend(data: Any) -> Priced:
        return Priced()

    runner = Flujo(Pipeline([Step.from_callable(spend)] * 3), usage_limits=UsageLimits(total_cost_usd_limit=1.0))

    with pytest.raises(UsageLimitExceededError, match=r"Cost limit of \$1 exceeded") as caught:
        runner.run("x")

    assert caught.value.result.total_cost_usd == pytest.approx(1.2)
    assert len(caught.value.result.step_history) == 2


def test_runners_are_context_managers_of_both_kinds() -> None:
    with Flujo(draft) as runner:
        assert runner.run("a").success

    async def use() -> PipelineResult:
        async with Flujo(draft) as runner:
            return await runner.run_async("b")

    assert asyncio.run(use()).success


def test_a_finished_run_id_gives_its_stored_result_in_a_later_call_of_run() -> None:
    agent = EchoAgent()
    runner = Flujo(Step(name="echo", agent=agent))

    first, again = runner.run("x", run_id="order-1"), runner.run("x", run_id="order-1")

    assert (first.output, again.output) == ("x", "x")
    assert agent.calls == ["x"]


def test_a_run_that_was_broken_off_goes_on_where_it_stopped() -> None:
    agent, broken = EchoAgent(), [True]

    async def wait(data: str) -> str:
        while broken[0]:
            await asyncio.sleep(0.01)  # until the caller gives up
        return data + "!"

    runner = Flujo(Step(name="echo", agent=agent) >> Step.from_callable(wait, name="wait"))

    async def give_up() -> None:
        async with runner, asyncio.timeout(0.2):
            await runner.run_async("x", run_id="order-2")

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    broken[0] = False
    result = runner.run("x", run_id="order-2")

    assert result.output == "x!"
    assert agent.calls == ["x"]


def test_a_step_is_tested_alone_with_arun() -> None:
    assert asyncio.run(draft.arun("rivers")) == "draft about rivers"
