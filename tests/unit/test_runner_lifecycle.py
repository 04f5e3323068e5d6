"""`Flujo` over its life: callers that give up, runs that nobody asks for any more, a Redis that comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flujo_client import ExecutionError, Flujo, RunConflictError, StateUnavailableError, Step, StepRun, step
from flujo_client.cli.redis_server import RedisServer
from flujo_client.execution.service import ManagerService
from flujo_worker.embedded import EmbeddedEngine
from tests.unit.lifecycle_pipeline import echoing


@step
async def endless(number: int) -> int:
    await asyncio.Event().wait()
    return number


@step
async def double(number: int) -> int:
    return number * 2


async def embedded(flujo: Flujo) -> EmbeddedEngine:
    engine = await flujo._opened()
    assert isinstance(engine, EmbeddedEngine)
    return engine


def kept(engine: EmbeddedEngine) -> set[str]:
    """What stays in memory, but for what does not grow with the runs."""
    keys = {key.decode().partition("}:")[2] for key in engine.redis.store.live_keys()}
    return keys - {"specs", "spec_uses", "incarnations", "intake"}


@pytest.mark.parametrize("patience_s", [0.02, 0.05])
async def test_callers_that_gave_up_leave_nothing_in_memory(patience_s: float) -> None:
    """Wherever their runs were: a step may be running, or be journalled and never taken."""

    async def give_up(flujo: Flujo) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(patience_s):
                await flujo.run_async(1)

    async with Flujo(double >> endless) as flujo:
        await asyncio.gather(*(give_up(flujo) for _ in range(20)))
        await flujo._driver.settle()
        engine = await embedded(flujo)

        assert kept(engine) == set()
        assert engine.codec._values == {}
        assert engine._steps == {}
        assert (flujo._observer._ended, flujo._observer._results) == ({}, {})


async def test_leaving_a_stream_early_cancels_a_run_that_nobody_can_name() -> None:
    async def speak(number: int, run: StepRun) -> int:
        await run.emit("first")
        await asyncio.Event().wait()
        return number

    async with Flujo(Step.from_callable(speak)) as flujo:
        items = flujo.stream_async(1)
        assert await anext(items) == "first"
        await items.aclose()  # type: ignore[attr-defined] # an async generator, shown as an iterator
        await flujo._driver.settle()

        assert kept(await embedded(flujo)) == set()


async def test_a_named_run_is_let_go_when_its_retention_is_over() -> None:
    async with Flujo(double) as flujo:
        await flujo.run_async(1, run_id="one")
        engine = await embedded(flujo)
        assert "run:one:record" in kept(engine)
        engine._retention_ms = 0
        await flujo.run_async(1, run_id="two")

        assert engine._retained.keys() <= {"two"}
        assert not any("one" in key for key in kept(engine))


async def test_a_submission_that_is_refused_leaves_nobody_waiting() -> None:
    async with Flujo(double) as flujo:
        await flujo.run_async(1, run_id="taken")
        with pytest.raises(RunConflictError):
            await flujo.run_async(1, run_id="taken", initial_context_data={"x": 1})

        assert flujo._observer._ended == {}


async def test_a_redis_that_was_away_at_first_is_asked_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    server.stop()
    async with Flujo(echoing, url=server.url) as flujo:
        with pytest.raises(StateUnavailableError):
            await flujo.run_async("x")
        with pytest.raises(StateUnavailableError):
            await flujo.run_async("x")
        server.start()
        try:
            assert (await flujo._opened()).owner.startswith("caller-")
        finally:
            await flujo.aclose()
            server.stop()


async def test_waiters_are_told_when_the_manager_in_their_process_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = asyncio.Event()

    async def fails(service: ManagerService) -> None:
        await submitted.wait()
        raise RuntimeError("a bug")

    monkeypatch.setattr(ManagerService, "serve", fails)
    with RedisServer(tmp_path) as server:
        async with Flujo(echoing, url=server.url) as flujo:
            waiting: list[asyncio.Task[Any]] = [asyncio.create_task(_await(flujo, "x")) for _ in range(2)]
            await asyncio.sleep(0)
            submitted.set()
            for failed in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(failed, ExecutionError)
                assert "a bug" in str(failed)


async def _await(flujo: Flujo, value: str) -> Any:
    return await flujo.run_async(value)
