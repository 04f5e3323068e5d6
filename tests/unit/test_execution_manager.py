"""The named components of the design, a group for each, and one run that passes through all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import (
    Flujo,
    Pipeline,
    PipelineContext,
    Quota,
    RunStatus,
    Step,
    StepRun,
    UsageEstimate,
    UsageLimits,
    step,
)
from flujo_client.execution.manager import ExecutionManager
from flujo_client.protocol.errors import RunNotFoundError, TypeMismatchError
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.results import PostStepPayload
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.types import Producer, TypeValidator
from flujo_client.state import StateManager
from flujo_worker import StepCoordinator
from flujo_worker.embedded import EmbeddedEngine
from flujo_worker.registry import Registry


@step(expected_tokens=5, max_retries=1)
async def flaky(number: int, run: StepRun) -> int:
    if run.attempt == 1:
        raise ValueError("first")
    run.usage.add(tokens=3)
    return number


@step
async def count(number: int) -> int:
    return number + 1


async def engine_with(pipeline: Pipeline) -> EmbeddedEngine:
    registry = Registry()
    registry.add(pipeline)
    engine = EmbeddedEngine(registry)
    await engine.open()
    return engine


class TestStateManager:
    async def test_an_unknown_run_is_none(self) -> None:
        engine = await engine_with(Pipeline([count], name="p"))

        assert await engine.state.load_workflow_state("nobody") is None
        with pytest.raises(RunNotFoundError):
            await engine.state.final_result("nobody")
        await engine.close()

    async def test_a_context_without_a_run_is_refused(self) -> None:
        engine = await engine_with(Pipeline([count], name="p"))

        assert engine.state.get_run_id_from_context(PipelineContext(run_id="r")) == "r"
        with pytest.raises(RunNotFoundError, match="belongs to no run"):
            engine.state.get_run_id_from_context(PipelineContext())
        await engine.close()


class TestQuotaUsage:
    def test_what_a_split_hands_out_is_what_there_was(self) -> None:
        children = Quota(1.0, 100).split(7)

        assert sum(child.get_remaining()[1] for child in children) == 100
        assert round(sum(child.get_remaining()[0] for child in children), 9) == 1.0

    def test_branches_share_the_budget_of_their_run(self) -> None:
        async def spend(number: int, run: StepRun) -> int:
            run.usage.add(tokens=40, cost_usd=0.001)
            return number

        branch: Step[Any, Any] = Step.from_callable(spend, expected_tokens=40)
        pipeline = Pipeline([Step.parallel("both", {"a": branch, "b": branch})])

        result = Flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=80, total_cost_usd_limit=1.0)).run(1)

        assert result.usage == {"tokens": 80, "cost_nanousd": 2_000_000}
        assert result.total_cost_usd == 0.002


class TestTypeValidator:
    def test_no_next_step_is_no_check(self) -> None:
        assert TypeValidator().validate_step_output(Producer("a", int), "text", None) == "text"

    def test_class_mismatch_keeps_its_words(self) -> None:
        with pytest.raises(TypeMismatchError, match=r"^Type mismatch: Output of 'a' \(returns int\)"):
            TypeValidator().validate_step_output(Producer("a", int), "text", Producer("b", Any, int))


class TestStepCoordinator:
    async def test_a_step_that_this_worker_lacks_is_given_back_without_an_attempt(self) -> None:
        engine = await engine_with(Pipeline([count], name="p"))
        end = await engine.coordinator.execute_step(_ref("nobody:knows"), "default")

        assert end.outcome == "not_here"
        await engine.close()

    async def test_an_unknown_run_is_inactive(self) -> None:
        engine = await engine_with(Pipeline([count], name="p"))
        end = await engine.coordinator.execute_step(_ref(count.function), "default")

        assert end.outcome == "inactive"
        await engine.close()


class TestExecutionManager:
    async def test_a_run_that_is_unknown_is_left_alone(self) -> None:
        engine = await engine_with(Pipeline([count], name="p"))

        assert await engine.manager.execute_steps(PipelineContext(run_id="nobody")) is None
        await engine.close()

    async def test_a_cancel_between_the_last_commit_and_the_end_ends_the_run(self) -> None:
        ended = asyncio.Event()

        class Watch:
            asks = False

            async def before_storing(self, run: Any, decision: Any, told: set[str]) -> None: ...
            async def after_pause(self, run_id: str) -> None: ...
            async def after_end(self, run_id: str, result: dict[str, Any]) -> None:
                ended.set()

        async def cancel(payload: PostStepPayload) -> None:
            await engine.scripts.cancel(payload.run_id, "pool", "too late to stop it")

        registry = Registry(hooks=[cancel])
        spec = registry.add(Pipeline([count], name="p"))
        engine = EmbeddedEngine(registry, observer=Watch())
        await engine.open()
        await engine.state.specs.keep(spec, "r1")
        await submit_run(engine.scripts, engine.codec, spec, 1, run_id="r", owner="pool")
        engine.manager.wake("r")
        await asyncio.wait_for(ended.wait(), 10)

        result = await engine.state.final_result("r")
        assert (result["status"], result["step_history"][0]["success"]) == ("cancelled", True)
        await engine.close()

    def test_the_end_is_written_into_the_context(self) -> None:
        result: dict[str, Any] = {"run_id": "r", "final_pipeline_context": {"$context": []}}

        ExecutionManager.set_final_context(None, result, RunStatus.FAILED)  # type: ignore[arg-type]

        assert result["final_pipeline_context"]["set"] == {"run_id": "r", "status": "failed"}


def _ref(function: str) -> Any:
    return StepRef(run_id="nobody", path="0", attempt=1, function=function, owner="pool")


def test_every_named_method_lies_on_the_way_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    called: set[str] = set()
    places: list[tuple[type, tuple[str, ...]]] = [
        (ExecutionManager, ("execute_steps", "set_final_context", "persist_final_state")),
        (StateManager, ("load_workflow_state", "persist_workflow_state", "get_run_id_from_context")),
        (StepCoordinator, ("execute_step", "update_pipeline_result", "_dispatch_hook")),
        (TypeValidator, ("validate_step_output", "get_step_input_type", "get_step_output_type")),
        (Quota, ("reserve", "reclaim", "refund", "split", "get_remaining")),
    ]
    for cls, names in places:
        for name in names:
            monkeypatch.setattr(cls, name, _recorded(called, f"{cls.__name__}.{name}", getattr(cls, name)))
    pipeline = flaky >> Step.parallel("both", {"a": count, "b": flaky})

    result = Flujo(pipeline, usage_limits=UsageLimits(total_tokens_limit=100)).run(1)

    assert result.success
    assert called == {f"{cls.__name__}.{name}" for cls, names in places for name in names}
    assert UsageEstimate().amounts() == {}


def _recorded(called: set[str], label: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        called.add(label)
        return method(*args, **kwargs)

    return wrapper
