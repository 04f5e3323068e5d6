"""Hooks of `Flujo(...)`: what they hear, in which order, with which facts, and how they end a run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import (
    Flujo,
    Pipeline,
    PipelineContext,
    RunStatus,
    Step,
    StepRun,
    UsageLimits,
    step,
)
from flujo_client.protocol.errors import PipelineAbortSignal, UsageLimitExceededError
from flujo_client.protocol.outcomes import Aborted
from flujo_client.protocol.results import (
    HookPayload,
    OnLimitPayload,
    OnLimitWarningPayload,
    OnStepFailurePayload,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
)


@step
async def double(number: int) -> int:
    return number * 2


@step
async def note(number: int, *, context: PipelineContext) -> int:
    context.hitl_data = {"noted": number}
    return number


@step(max_retries=1)
async def broken(number: int) -> int:
    raise ValueError("no luck")


class Heard:
    """A hook that keeps what it hears."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    async def __call__(self, payload: HookPayload) -> None:
        self.payloads.append(payload)

    @property
    def story(self) -> list[str]:
        return [f"{payload.event_name} {getattr(payload, 'path', '')}".strip() for payload in self.payloads]

    def of(self, kind: type[Any]) -> list[Any]:
        return [payload for payload in self.payloads if isinstance(payload, kind)]


def test_a_failing_step_is_begun_once_and_fails_once() -> None:
    heard = Heard()

    Flujo(double >> broken >> double, hooks=[heard]).run(1)

    assert heard.story == [
        "pre_run", "pre_step 0", "post_step 0", "pre_step 1", "on_step_failure 1", "post_run",
    ]  # fmt: skip
    (failed,) = heard.of(OnStepFailurePayload)
    assert (failed.step_result.name, failed.step_result.attempts) == ("broken", 2)
    assert "no luck" in failed.step_result.feedback


def test_payloads_carry_values_context_and_budget() -> None:
    heard = Heard()
    limits = UsageLimits(total_cost_usd_limit=1.0, total_tokens_limit=100)

    Flujo(double >> note >> double, hooks=[heard], usage_limits=limits, resources="r").run(3, run_id="run-1")

    (start,), (end,) = heard.of(PreRunPayload), heard.of(PostRunPayload)
    before, after = heard.of(PreStepPayload), heard.of(PostStepPayload)
    assert (start.initial_input, start.run_id, start.initial_budget_tokens) == (3, "run-1", 100)
    assert start.context.initial_prompt == "3"
    assert [(payload.step.name, payload.step_input) for payload in before] == [
        ("double", 3),
        ("note", 6),
        ("double", 6),
    ]
    assert (before[0].quota_before_usd, before[0].quota_before_tokens, before[0].resources) == (1.0, 100, "r")
    assert [payload.step_result.output for payload in after] == [6, 6, 12]
    assert after[1].context.hitl_data == {"noted": 6}
    assert (end.pipeline_result.output, end.pipeline_result.final_pipeline_context.hitl_data) == (12, {"noted": 6})


def test_nested_steps_are_heard_inside_their_composites_with_path_and_depth() -> None:
    heard = Heard()

    Flujo(double >> Step.parallel("both", {"a": double, "b": double}), hooks=[heard]).run(1)

    story = heard.story
    assert story[:5] == ["pre_run", "pre_step 0", "post_step 0", "pre_step 1", "pre_step 1.0.0"]
    assert story[-2:] == ["post_step 1", "post_run"]
    assert sorted(story[5:-2]) == ["post_step 1.0.0", "post_step 1.1.0", "pre_step 1.1.0"]
    composite = heard.of(PostStepPayload)[-1]
    assert (composite.depth, composite.step_result.output) == (0, {"a": 4, "b": 4})
    assert [part.name for part in composite.step_result.step_history] == ["both_a", "both_b"]
    assert {payload.depth for payload in heard.of(PostStepPayload)} == {0, 2}


def test_a_limit_is_heard_as_such_and_not_as_a_failure() -> None:
    heard = Heard()

    @step(expected_tokens=200)
    async def dear(number: int, run: StepRun) -> int:
        return number

    with pytest.raises(UsageLimitExceededError):
        Flujo(dear, hooks=[heard], usage_limits=UsageLimits(total_tokens_limit=100)).run(1)

    assert heard.story == ["pre_run", "pre_step 0", "on_limit 0", "post_run"]
    (limit,) = heard.of(OnLimitPayload)
    assert (limit.step_name, limit.limit) == (
        "dear",
        {"account": "root", "meter": "tokens", "asked": "200", "free": "100"},
    )


def test_a_limit_that_is_near_is_heard_once_a_meter_before_it_is_met() -> None:
    heard = Heard()

    @step
    async def spend(number: int, run: StepRun) -> int:
        run.usage.add(tokens=10, searches=1)
        return number

    limits = UsageLimits(total_tokens_limit=50, meters={"searches": 9})
    Flujo(spend >> spend >> spend >> spend >> spend, hooks=[heard], usage_limits=limits).run(1)

    (warning,) = heard.of(OnLimitWarningPayload)
    assert (warning.path, warning.meter, warning.used, warning.limit) == ("3", "tokens", 40, 50)
    assert heard.story[heard.story.index("on_limit_warning 3") - 1] == "post_step 3"


def test_pipeline_hooks_come_first_then_those_of_its_end_then_the_runners() -> None:
    heard: list[str] = []

    def hook(name: str) -> Any:
        def call(payload: PostRunPayload) -> None:
            heard.append(name)

        return call

    pipeline = Pipeline([double], hooks=[hook("pipeline")], on_finish=[hook("finish")])
    Flujo(pipeline, hooks=[hook("runner")]).run(1)

    assert heard == ["pipeline", "finish", "runner"]


@pytest.mark.parametrize("event", ["pre_run", "pre_step", "post_step", "on_step_failure"])
def test_an_abort_in_any_hook_ends_the_run_as_aborted(event: str) -> None:
    def abort(payload: HookPayload) -> None:
        if payload.event_name == event:
            raise PipelineAbortSignal("enough")

    pipeline = (broken if event == "on_step_failure" else double) >> double
    result = Flujo(pipeline, hooks=[abort]).run(1)

    assert (result.status, result.success, (result.error or {})["message"]) == (RunStatus.ABORTED, False, "enough")
    assert result.final_pipeline_context.status == "aborted"
    finished = event in ("post_step", "on_step_failure")
    assert len(result.step_history) == (1 if finished else 0)


def test_a_pause_hook_may_abort() -> None:
    def abort(payload: HookPayload) -> None:
        if payload.event_name == "on_pause_requested":
            raise PipelineAbortSignal("nobody is there")

    result = Flujo(Step.human_in_the_loop("ask"), hooks=[abort]).run(1)

    assert result.status is RunStatus.ABORTED


def test_a_step_that_aborts_ends_the_run_and_is_not_tried_again() -> None:
    calls: list[int] = []

    @step(max_retries=3)
    async def stop(number: int) -> int:
        calls.append(number)
        raise PipelineAbortSignal("that is all")

    result = Flujo(double >> stop >> double).run(1)

    assert (result.status, len(calls)) == (RunStatus.ABORTED, 1)
    assert [(part.name, part.success) for part in result.step_history] == [("double", True), ("stop", False)]


async def test_an_abort_is_the_last_outcome() -> None:
    def abort(payload: PreStepPayload) -> None:
        raise PipelineAbortSignal("enough")

    async with Flujo(double, hooks=[abort]) as flujo:
        assert [item async for item in flujo.run_outcomes_async(1)] == [Aborted(reason="enough")]


def test_an_abort_in_one_branch_ends_the_others() -> None:
    async def work() -> tuple[RunStatus, bool]:
        cancelled = asyncio.Event()

        @step
        async def slow(number: int) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return number

        @step
        async def stop(number: int) -> int:
            raise PipelineAbortSignal("stop")

        async with Flujo(Step.parallel("both", {"a": slow, "b": stop})) as flujo:
            result = await flujo.run_async(1)
        return result.status, cancelled.is_set()

    assert asyncio.run(work()) == (RunStatus.ABORTED, True)


def test_a_faulty_hook_is_logged_and_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def faulty(payload: PreStepPayload) -> None:
        raise ValueError("hook")

    assert Flujo(double, hooks=[faulty]).run(1).output == 2
    assert "Error in hook 'faulty'" in caplog.text


@pytest.mark.parametrize("event", ["pre_run", "pre_step", "post_step", "post_run"])
def test_a_strict_faulty_hook_raises_what_it_raised(monkeypatch: pytest.MonkeyPatch, event: str) -> None:
    monkeypatch.setenv("FLUJO_STRICT_HOOKS", "1")

    def faulty(payload: HookPayload) -> None:
        if payload.event_name == event:
            raise ValueError("hook")

    with pytest.raises(ValueError, match=r"^hook$"):
        Flujo(double, hooks=[faulty]).run(1)


def test_a_run_that_is_asked_for_again_has_its_hooks_heard_once() -> None:
    heard = Heard()
    flujo = Flujo(double, hooks=[heard])
    flujo.run(1, run_id="r")

    flujo.run(1, run_id="r")

    assert heard.story.count("pre_run") == 1


async def test_a_run_that_is_woken_after_its_end_is_told_of_once() -> None:
    ends: list[str] = []

    async def hear(payload: PostRunPayload) -> None:
        ends.append(payload.pipeline_result.status)

    async with Flujo(double, hooks=[hear]) as flujo:
        await flujo.run_async(1, run_id="a")
        manager = (await flujo._opened()).manager
        manager.wake("a")
        await manager.settle()

    assert ends == [RunStatus.COMPLETED]
