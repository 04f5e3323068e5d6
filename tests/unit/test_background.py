"""Background steps in process: the pipeline goes on, the run's end waits, and failures show."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import (
    BackgroundLaunched,
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RunStatus,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.unit.replay import Replay, background, parallel, step


class Notes(PipelineContext):
    counter: int = 0


async def text_of(number: int) -> str:
    return f"got {number}"


_TEXT: Step[Any, Any] = Step.from_callable(text_of)


def _background(function: Any, **terms: Any) -> Step[Any, Any]:
    return Step.from_callable(function, execution_mode="background", max_retries=0, **terms)


def test_the_pipeline_goes_on_with_the_input_and_the_run_waits_at_its_end() -> None:
    released = asyncio.Event()
    order: list[str] = []

    async def slow(number: int) -> int:
        await released.wait()
        order.append("slow")
        return number * 100

    async def quick(number: int) -> int:
        order.append("quick")
        released.set()
        return number + 1

    result = Flujo(Pipeline([_background(slow), Step.from_callable(quick)])).run(1)

    first = result.step_history[0]
    assert (result.output, order) == (2, ["quick", "slow"])
    assert first.feedback == f"Launched in background (task_id={first.metadata_['background_task_id']})"
    assert first.output == 1
    assert [(part.name, part.output) for part in first.step_history] == [("slow", 100)]


async def test_the_launch_is_told_first() -> None:
    async def work(number: int) -> int:
        return number

    items = [item async for item in Flujo(Pipeline([_background(work), _TEXT])).run_async(1)]

    assert isinstance(items[0], BackgroundLaunched)
    assert isinstance(items[-1], PipelineResult)
    assert items[0].step_name == "work"
    assert items[0].task_id == items[-1].step_history[0].metadata_["background_task_id"]


def test_its_failure_shows_and_does_not_fail_the_run() -> None:
    async def fail(number: int) -> int:
        raise ValueError("no")

    result = Flujo(Pipeline([_background(fail), _TEXT])).run(1)

    first = result.step_history[0]
    assert (result.status, result.output) == (RunStatus.COMPLETED, "got 1")
    assert "ValueError: no" in first.metadata_["background_error"]
    assert not first.step_history[0].success


def test_its_context_is_a_copy_that_ends_with_it() -> None:
    async def count(number: int, *, context: Notes) -> int:
        context.counter += 1
        return context.counter

    plain: Step[Any, Any] = Step.from_callable(count, name="plain")

    result = Flujo(Pipeline([plain, _background(count), plain]), context_model=Notes).run(1)

    assert result.step_history[1].step_history[0].output == 2
    assert result.final_pipeline_context.counter == 2


def test_what_it_spends_counts() -> None:
    async def pay(number: int, *, run: Any) -> int:
        run.usage.add(tokens=60)
        return number

    pays = _background(pay, expected_tokens=60)

    assert Flujo(Pipeline([pays, _TEXT])).run(1).total_tokens == 61
    with pytest.raises(UsageLimitExceededError):
        Flujo(Pipeline([pays, pays]), usage_limits=UsageLimits(total_tokens_limit=100)).run(1)


def test_a_failed_run_waits_for_its_background_work_as_well() -> None:
    done: list[int] = []
    released = asyncio.Event()

    async def slow(number: int) -> int:
        await released.wait()
        done.append(number)
        return number

    async def fail(number: int) -> int:
        released.set()
        raise ValueError("no")

    result = Flujo(Pipeline([_background(slow), Step.from_callable(fail, max_retries=0)])).run(1)

    assert (result.status, done) == (RunStatus.FAILED, [1])


def test_composites_may_run_in_the_background_and_it_may_be_in_a_branch() -> None:
    seen: list[int] = []

    async def note(number: int) -> int:
        seen.append(number)
        return number

    noted: Step[Any, Any] = Step.from_callable(note)
    loop = Step.loop_until("loop", noted, lambda number, context: len(seen) >= 3)
    behind = loop.model_copy(update={"config": noted.config.model_copy(update={"execution_mode": "background"})})

    result = Flujo(Pipeline([Step.parallel("par", {"a": behind, "b": _TEXT})])).run(4)

    assert (result.output, seen) == ({"a": 4, "b": "got 4"}, [4, 4, 4])


def test_types_are_checked_against_what_is_handed_on() -> None:
    with pytest.raises(ValueError, match="'text_of' \\(returns int\\)"):
        Pipeline([_background(text_of), Step.from_callable(len_of)])


async def len_of(text: str) -> int:
    return len(text)


def test_many_background_steps_open_in_slices_without_deep_recursion() -> None:
    run = Replay(parallel(*(background(step("x")) for _ in range(600))), step("after"))

    for index in range(600):
        run.decided(f"0.{index}.0!launch", task_id=f"bg_{index}")

    assert run.nodes["root"].background == 600
    assert ("1", 1) in run.dispatched()
    assert not run.succeed("1").status.terminal
    for index in range(600):
        ended = run.succeed(f"0.{index}.0.0.0").status.terminal
        assert ended is (index == 599)
