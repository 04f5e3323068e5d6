"""Trace trees: complete, of one run each, and built from what the run recorded anyway."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from flujo_client import Flujo, PipelineResult, Step, StepRun, UsageLimitExceededError, UsageLimits, step
from flujo_client.cli.output import console
from flujo_client.cli.trace import draw_trace
from flujo_client.protocol.traces import TraceSpan


@step
async def double(number: int) -> int:
    return number * 2


def traced(pipeline: Any, value: Any, **terms: Any) -> TraceSpan:
    tree = Flujo(pipeline, **terms).run(value).trace_tree
    assert isinstance(tree, TraceSpan)
    return tree


def test_the_root_is_the_run_and_its_children_are_its_steps_in_order() -> None:
    root = traced((double >> double).named("twice"), 3)

    assert (root.name, root.status, root.parent_span_id) == ("pipeline_run", "completed", None)
    assert [child.name for child in root.children] == ["double", "double"]
    assert [child.span_id for child in root.children] == ["0", "1"]
    assert {child.parent_span_id for child in root.children} == {"root"}
    assert root.attributes["flujo.pipeline.name"] == "twice"
    assert root.attributes["flujo.pipeline.version"] == "latest"
    assert root.attributes["flujo.input"] == "3"


def test_a_step_tells_its_input_its_attempts_and_what_it_used() -> None:
    async def spend(number: int, run: StepRun) -> int:
        run.usage.add(tokens=7, cost_usd=0.25)
        return number

    limits = UsageLimits(total_cost_usd_limit=1.0, total_tokens_limit=100)
    root = traced(Step.from_callable(spend) >> Step.from_callable(spend), 3, usage_limits=limits)

    first, second = root.children
    assert root.attributes["flujo.budget.initial_cost_usd"] == 1.0
    assert root.attributes["flujo.budget.initial_tokens"] == 100
    assert first.attributes["flujo.step.type"] == "step"
    assert first.attributes["step_input"] == "3"
    assert first.attributes["flujo.attempt_number"] == 1
    assert first.attributes["success"] is True
    assert first.attributes["flujo.budget.quota_before_usd"] == 1.0
    assert first.attributes["flujo.budget.actual_tokens"] == 7
    assert second.attributes["flujo.budget.quota_before_usd"] == 0.75
    assert second.attributes["flujo.budget.quota_before_tokens"] == 93
    assert second.attributes["flujo.budget.actual_cost_usd"] == 0.25


def test_times_lie_inside_the_runs_and_follow_one_another() -> None:
    async def wait(number: int) -> int:
        await asyncio.sleep(0.02)
        return number

    root = traced(Step.from_callable(wait) >> Step.from_callable(wait), 1)

    first, second = root.children
    times = [root.start_time, first.start_time, first.end_time, second.start_time, second.end_time, root.end_time]
    known = [at for at in times if at is not None]
    assert len(known) == 6
    assert all(later >= earlier - 0.002 for earlier, later in itertools.pairwise(known))  # whole ms
    assert first.attributes["latency_s"] >= 0.02


def test_nested_nodes_are_traced_at_any_depth() -> None:
    inner = Step.parallel("inner", {"x": double, "y": double >> Step.from_callable(lambda n: n + 1, name="inc")})
    loop = Step.loop_until("loop", inner >> Step.from_callable(lambda d: d["y"], name="pick"), lambda n, c: n > 10)

    root = traced(loop, 1)

    looped = root.find("loop")
    assert looped is not None
    assert looped.attributes["flujo.step.type"] == "loop"
    assert [event.name for event in looped.events].count("loop.iteration") == len(looped.children) == 3
    assert [event.attributes["iteration"] for event in looped.events if event.name == "loop.iteration"] == [1, 2, 3]
    deep = looped.children[0].find("inner")
    assert deep is not None
    assert [child.name for child in deep.children] == ["x", "y"]
    assert deep.find("inc") is not None
    assert deep.status == "completed"


def test_a_conditional_tells_the_branch_that_ran() -> None:
    root = traced(Step.branch_on("pick", lambda n, context: "even", {"even": double, "odd": double}), 2)

    pick = root.find("pick")
    assert pick is not None
    assert pick.attributes["executed_branch_key"] == "even"
    assert [child.name for child in pick.children] == ["even"]


def test_retries_and_fallbacks_are_events() -> None:
    async def flaky(number: int, run: StepRun) -> int:
        if run.attempt < 3:
            raise ValueError("not yet")
        return number

    async def broken(number: int) -> int:
        raise ValueError("never")

    pipeline = Step.from_callable(flaky, max_retries=2) >> Step.from_callable(broken, max_retries=0).fallback(double)
    root = traced(pipeline, 1)

    retried, fallen = root.children
    assert [(event.name, event.attributes["attempt"]) for event in retried.events] == [
        ("flujo.retry", 1),
        ("flujo.retry", 2),
    ]
    assert "not yet" in retried.events[0].attributes["reason"]
    assert fallen.events[-1].name == "flujo.fallback.triggered"
    assert retried.attributes["flujo.attempt_number"] == 3


def test_a_failed_run_is_traced_to_the_step_that_failed() -> None:
    async def broken(number: int) -> int:
        raise ValueError("no luck")

    result = Flujo(double >> Step.from_callable(broken, max_retries=0) >> double).run(1)

    root = result.trace_tree
    assert root.status == "failed"
    assert [(child.name, child.status) for child in root.children] == [("double", "completed"), ("broken", "failed")]
    assert root.children[1].attributes["success"] is False
    assert root.children[1].events[0].name == "flujo.attempt.failed"


def test_a_limits_error_carries_the_trace_of_the_refusal() -> None:
    with pytest.raises(UsageLimitExceededError) as caught:
        Flujo(
            Step.from_callable(lambda n: n, name="dear", expected_tokens=11),
            usage_limits=UsageLimits(total_tokens_limit=10),
        ).run(1)

    refused = caught.value.result.trace_tree.find("dear")
    assert refused.status == "failed"
    assert refused.events[-1].name == "flujo.refused"
    assert refused.events[-1].attributes["asked"] == "11"


async def test_runs_at_once_have_trees_of_their_own() -> None:
    async with Flujo(double >> double) as flujo:
        results: list[PipelineResult] = await asyncio.gather(*(flujo.run_async(number) for number in range(30)))

    for number, result in enumerate(results):
        assert result.trace_tree.attributes["flujo.run_id"] == result.run_id
        assert result.trace_tree.attributes["flujo.input"] == str(number)
        assert [child.attributes["step_input"] for child in result.trace_tree.children] == [
            str(number),
            str(2 * number),
        ]


def test_tracing_can_be_switched_off() -> None:
    runner = Flujo(double)
    runner.disable_tracing()

    assert runner.run(1).trace_tree is None
    assert Flujo(double, enable_tracing=False).run(1).trace_tree is None


def test_inputs_that_cannot_be_shown_do_not_matter() -> None:
    endless: list[Any] = []
    endless.append(endless)

    class Strange:
        def __repr__(self) -> str:
            raise RuntimeError

    anything: Step[Any, Any] = Step.from_callable(lambda value: 1, name="any")
    assert traced(anything, endless).attributes["flujo.input"] == "<list>"
    assert traced(anything, {"x": Strange()}).attributes["flujo.input"] == '{"x":"<Strange>"}'


def test_a_trace_is_drawn_with_its_events() -> None:
    async def flaky(number: int, run: StepRun) -> int:
        if run.attempt < 2:
            raise ValueError("not yet")
        return number

    root = traced(Step.from_callable(flaky), 1)

    with console.capture() as captured:
        console.print(draw_trace(root, root.start_time or 0.0))
    assert "pipeline_run  completed" in captured.get()
    assert "flujo.retry" in captured.get()
