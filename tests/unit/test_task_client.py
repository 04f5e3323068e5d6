"""`TaskClient`, `replay_from_trace` and the helpers for tests, as existing code uses them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flujo_client import (
    ConfigurationError,
    FileBackend,
    Flujo,
    InMemoryBackend,
    Pipeline,
    PipelineRegistry,
    PluginOutcome,
    ReplayError,
    RunStatus,
    SettingsError,
    Step,
    TaskClient,
    TaskNotFoundError,
    TaskStatus,
    step,
)
from flujo_client.testing import (
    DummyPlugin,
    StubAgent,
    assert_context_updated,
    assert_pipeline_result,
    assert_validator_failed,
    gather_result,
    override_agent,
)


@step
async def double(number: int) -> int:
    return number * 2


@step
async def told(answer: str) -> str:
    return f"told {answer}"


asking = Pipeline(
    [double, Step.human_in_the_loop("ask", message_for_user="go on?"), told], name="asking", version="1.0"
)


async def test_kept_runs_are_listed_looked_at_and_answered() -> None:
    backend, registry = InMemoryBackend(), PipelineRegistry()
    registry.register(asking, "asking", "1.0")
    async with Flujo(asking, state_backend=backend) as flujo:
        await flujo.run_async(2, run_id="waiting")
    async with Flujo(double, state_backend=backend) as flujo:
        await flujo.run_async(2, run_id="done")

    async with TaskClient(backend) as client:
        assert {task.run_id: task.status for task in await client.list_tasks()} == {
            "waiting": TaskStatus.PAUSED,
            "done": TaskStatus.COMPLETED,
        }
        (only,) = await client.list_tasks(status="paused")
        detail = await client.get_task(only.run_id)
        assert (detail.pause_message, detail.current_step_index, detail.last_step_output) == ("go on?", 1, 4)
        with pytest.raises(ConfigurationError, match="not at hand"):
            await client.resume_task("waiting", "yes")
        result = await client.resume_task("waiting", "yes", registry=registry)
        assert (result.output, result.status) == ("told yes", RunStatus.COMPLETED)
        assert (await client.get_task("waiting")).status is TaskStatus.COMPLETED
        with pytest.raises(TaskNotFoundError):
            await client.get_task("nobody")
        assert await client.get_system_state("cursor") is None
        assert (await client.set_system_state("cursor", 3)).value == 3
        kept = await client.get_system_state("cursor")
        assert kept is not None
        assert kept.value == 3


async def test_the_backend_of_the_settings_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError):
        TaskClient()
    monkeypatch.setenv("FLUJO_STATE_URI", f"file://{tmp_path}")
    async with Flujo(double) as flujo:
        await flujo.run_async(2, run_id="done")

    async with TaskClient() as client:
        assert [task.run_id for task in await client.list_tasks()] == ["done"]


def test_a_run_that_has_ended_is_replayed_without_running_anything(tmp_path: Path) -> None:
    calls: list[int] = []

    async def once(number: int) -> int:
        calls.append(number)
        return number + 1

    runner = Flujo(Step.from_callable(once), state_backend=FileBackend(tmp_path))
    runner.run(1, run_id="a")

    async def replay(flujo: Flujo, run_id: str) -> Any:
        async with flujo:
            return await flujo.replay_from_trace(run_id)

    other = Flujo(Step.from_callable(once), state_backend=FileBackend(tmp_path))
    for flujo in (runner, other):
        result = asyncio.run(replay(flujo, "a"))
        assert (result.output, calls) == (2, [1])
        assert result.trace_tree is not None
    with pytest.raises(ReplayError):
        asyncio.run(replay(other, "nobody"))
    with pytest.raises(ReplayError):
        asyncio.run(replay(Flujo(double), "nobody"))


def test_a_local_tracer_is_the_last_hook() -> None:
    seen: list[str] = []
    Flujo(
        double,
        hooks=[lambda payload: seen.append("hook")],
        local_tracer=lambda payload: seen.append(payload.event_name),
    ).run(1)

    assert seen[:2] == ["hook", "pre_run"]
    assert "post_step" in seen


async def test_stub_agents_say_what_they_are_told_to() -> None:
    agent = StubAgent([ValueError("no"), "yes"])
    stubbed: Step[Any, Any] = Step(name="stubbed", agent=agent)

    result = await gather_result(Flujo(stubbed), "x")

    assert_pipeline_result(result, "yes")
    assert (agent.call_count, agent.inputs) == (2, ["x", "x"])
    with override_agent(stubbed, StubAgent(["other"])):
        assert_pipeline_result(await gather_result(Flujo(stubbed), "x"), "other")
    assert_pipeline_result(await gather_result(Flujo(stubbed), "x"), "yes")
    with pytest.raises(AssertionError):
        assert_pipeline_result(result, "no")


async def test_stub_plugins_and_claims_about_results() -> None:
    plugin = DummyPlugin([PluginOutcome(success=False, feedback="too short")])
    checked: Step[Any, Any] = Step(name="checked", agent=StubAgent(["x"]), plugins=[(plugin, 0)])
    counted: Step[Any, Any] = Step.from_callable(lambda value: {"n": 3}, name="n", updates_context=True)

    failed = await gather_result(Flujo(checked), "x")
    updated = await gather_result(Flujo(counted), "x")

    assert_validator_failed(failed, "too short")
    assert plugin.call_count == 1
    assert_context_updated(updated, n=3)
    with pytest.raises(AssertionError):
        assert_validator_failed(updated, "too short")
    with pytest.raises(AssertionError):
        assert_context_updated(updated, n=4)
