"""The context: committed with every step, isolated per attempt and branch, and nothing of it lost when a worker dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flujo_client import (
    AsyncFlujoClient,
    ConfigurationError,
    Flujo,
    PipelineContext,
    PipelineContextInitializationError,
    RunStatus,
    Step,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration import contexts, model_agents
from tests.integration.conftest import Fleet, Modes
from tests.integration.contexts import Files, Story


@pytest.fixture(scope="module")
def two_workers(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and two workers, which have this module's pipelines."""
    made = make_fleet("contexts", FLUJO_PIPELINES="tests.integration.contexts,tests.integration.model_agents")
    made.manager()
    made.worker()
    made.worker()
    asyncio.run(made.ready(2))
    return made


@pytest.fixture(params=["in process", "on a fleet"])
def modes(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modes:
    if request.param == "on a fleet":
        return Modes(request.getfixturevalue("two_workers"))
    monkeypatch.setenv("TEST_LEDGER", str(tmp_path / "ledger"))
    return Modes(None, state_providers={"files": Files()})


async def test_a_killed_worker_loses_nothing_of_the_context_and_leaves_nothing_in_it(two_workers: Fleet) -> None:
    async with AsyncFlujoClient(settings=two_workers.settings()) as client:
        await two_workers.published(client, "remembering")
        run = await client.submit("remembering", "word", run_id="killed")
        started = await two_workers.started("killed", "1")
        two_workers.processes[started[0]["pid"]].send_signal(signal.SIGKILL)
        two_workers.worker()
        await two_workers.started("killed", "1", times=2)
        two_workers.open_gate("context-killed")
        result = await run.result(timeout_s=60)

    assert result.status is RunStatus.COMPLETED
    assert result.output == [11, "word", 4, 11, {"kept": [1, None]}]
    assert len(two_workers.entries(kind="started", run_id="killed", path="0")) == 1
    context = result.final_pipeline_context
    assert (context.n, context.items, context.run_id) == (11, [{"name": "word", "count": 0}], "killed")
    assert context.step_outputs == {
        "remember": "word",
        "wait_for_gate": [11, "word", 4],
        "recall": [11, "word", 4, 11, {"kept": [1, None]}],
    }


async def test_branches_are_isolated_and_merged_in_declared_order(modes: Modes) -> None:
    result = await modes.run(contexts.counting, "w", context_model=Story)

    assert result.status is RunStatus.COMPLETED, result.step_history[-1].feedback
    assert result.output == [1, 7, ["w", "w1", "w2", "w3"]]


async def test_a_reference_is_loaded_before_a_step_and_saved_after_it(modes: Modes) -> None:
    result = await modes.run(contexts.referring, "ab", context_model=Story)

    assert result.output == {"text": "abab!", "before": None}
    assert result.final_pipeline_context.large.model_dump() == {"provider_id": "files", "key": "story"}


async def test_a_reference_to_an_unknown_provider_raises_out_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_LEDGER", str(tmp_path / "ledger"))
    with pytest.raises(ConfigurationError, match="provider 'files'"):
        await Flujo(contexts.referring, context_model=Story).run_async("ab")


async def test_a_context_has_no_scratchpad() -> None:
    async def scribble(data: Any, *, context: PipelineContext) -> Any:
        context.scratchpad = 1

    async def update(data: Any) -> dict[str, Any]:
        return {"scratchpad": 1}

    results = [
        await Flujo(Step.from_callable(scribble)).run_async(1),
        await Flujo(Step.from_callable(update, updates_context=True)).run_async(1),
    ]

    assert [("scratchpad" in (result.step_history[0].feedback or "")) for result in results] == [True, True]
    with pytest.raises(PipelineContextInitializationError, match="scratchpad"):
        await Flujo(Step.from_callable(scribble), initial_context_data={"scratchpad": {}}).run_async(1)


class TestModelAgents:
    async def test_agents_at_the_top_level_of_a_module_run_and_are_metered_and_priced(self, modes: Modes) -> None:
        result = await modes.run(model_agents.searching, "where?")

        assert result.success, result.step_history[-1].feedback
        search, describe, _ = result.step_history
        assert search.output == "nowhere"
        assert search.token_counts > 100
        assert search.cost_usd > 0
        assert describe.output == {"name": "Paris", "people": 2} or describe.output.people == 2
        assert result.output == 2
        assert result.usage["requests"] == 5

    async def test_an_agent_is_stopped_before_the_request_that_would_break_the_cap(self, modes: Modes) -> None:
        with pytest.raises(UsageLimitExceededError) as caught:
            await modes.run(model_agents.endless, "where?", usage_limits=UsageLimits(meters={"requests": 2}))

        assert caught.value.result.usage["requests"] == 2
