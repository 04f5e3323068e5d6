"""Background steps looked after: listed, cancelled, and tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import (
    ConfigurationError,
    Flujo,
    InMemoryBackend,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RunNotFoundError,
    RunStatus,
    Step,
    TaskNotFoundError,
)
from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.messages import EventKind
from tests.unit.replay import Replay, background, hitl, parallel, step


class Notes(PipelineContext):
    place: str = "here"


async def add(number: int) -> int:
    return number + 1


def _behind(function: Any, **terms: Any) -> Step[Any, Any]:
    return Step.from_callable(function, **{"execution_mode": "background", "max_retries": 0, **terms})


_ADD: Step[Any, Any] = Step.from_callable(add)


def task_id_of(result: PipelineResult, place: int = 0) -> str:
    return str(result.step_history[place].metadata_["background_task_id"])


class TestLists:
    async def test_tasks_tell_their_step_their_input_and_their_result(self) -> None:
        async def hundred(number: int) -> int:
            return number * 100

        async with Flujo(Pipeline([_behind(hundred), _ADD])) as flujo:
            result = await flujo.run_async(1, run_id="r")
            (task,) = await flujo.get_background_tasks("r")

        assert (task.task_id, task.run_id, task.path) == (task_id_of(result), "r", "0")
        assert (task.step_name, task.status, task.given, task.error) == ("hundred", "completed", 1, None)
        assert task.result is not None
        assert task.result.output == 100

    async def test_a_run_without_any_has_none_and_an_unknown_one_is_an_error(self) -> None:
        async with Flujo(_ADD) as flujo:
            await flujo.run_async(1, run_id="r")

            assert await flujo.get_background_tasks("r") == []
            with pytest.raises(RunNotFoundError):
                await flujo.get_background_tasks("nobody")

    async def test_failed_ones_are_found_in_every_run_of_the_last_hours_and_in_the_backend(self) -> None:
        async def fail(number: int) -> int:
            raise ValueError("no")

        backend = InMemoryBackend()
        pipeline = Pipeline([_behind(fail), _ADD], name="p")
        async with Flujo(pipeline, state_backend=backend) as flujo:
            await flujo.run_async(1, run_id="r1")
            await flujo.run_async(2, run_id="r2")
        async with Flujo(pipeline, state_backend=backend) as flujo:  # what it knows stands in the backend
            found = await flujo.get_failed_background_tasks()
            recent = await flujo.get_failed_background_tasks(hours_back=0)
            of_one = await flujo.get_failed_background_tasks("r2")

        assert {(task.run_id, task.status, task.given) for task in found} == {("r1", "failed", 1), ("r2", "failed", 2)}
        assert "ValueError" in (found[0].error or "")
        assert recent == []
        assert [task.run_id for task in of_one] == ["r2"]


class Flaky:
    """Fails until somebody mends it."""

    def __init__(self) -> None:
        self.broken = True
        self.seen: list[tuple[Any, str]] = []

    async def run(self, number: int, *, context: Notes) -> int:
        self.seen.append((number, context.place))
        if self.broken:
            raise ValueError("no")
        return number * 100


class TestAgain:
    @staticmethod
    def _pipeline(agent: Flaky) -> Pipeline:
        part: Step[Any, Any] = Step(name="flaky", agent=agent)
        terms = part.config.model_copy(update={"execution_mode": "background", "max_retries": 0})
        return Pipeline([part.model_copy(update={"config": terms}), _ADD])

    async def test_a_failed_one_is_run_again_on_its_input_and_its_context_and_is_failed_no_more(self) -> None:
        agent = Flaky()
        async with Flujo(self._pipeline(agent), context_model=Notes) as flujo:
            first = await flujo.run_async(1, run_id="r", initial_context_data={"place": "there"})
            agent.broken = False
            again = await flujo.resume_background_task(task_id_of(first))
            repeated = await flujo.resume_background_task(task_id_of(first))

            assert (again.output, again.run_id) == (100, f"r_bg_{task_id_of(first)}")
            assert repeated.output == 100
            assert agent.seen == [(1, "there"), (1, "there")]
            assert await flujo.get_failed_background_tasks() == []

    async def test_it_may_get_another_input(self) -> None:
        agent = Flaky()
        async with Flujo(self._pipeline(agent), context_model=Notes) as flujo:
            first = await flujo.run_async(1, run_id="r")
            agent.broken = False

            assert (await flujo.resume_background_task(task_id_of(first), new_data=7)).output == 700

    async def test_those_of_a_run_are_retried_and_what_fails_again_may_be_tried_once_more(self) -> None:
        agent = Flaky()
        async with Flujo(self._pipeline(agent), context_model=Notes) as flujo:
            first = await flujo.run_async(1, run_id="r")
            (failed,) = await flujo.retry_failed_background_tasks("r", max_retries=0)
            agent.broken = False
            (mended,) = await flujo.retry_failed_background_tasks("r")

            assert failed.status is RunStatus.FAILED
            assert (mended.output, mended.run_id) == (100, f"r_bg_{task_id_of(first)}.2")
            assert await flujo.retry_failed_background_tasks("r") == []

    async def test_what_is_not_known_is_said(self) -> None:
        agent, backend = Flaky(), InMemoryBackend()
        async with Flujo(self._pipeline(agent), context_model=Notes, state_backend=backend) as flujo:
            first = await flujo.run_async(1, run_id="r")
            with pytest.raises(TaskNotFoundError):
                await flujo.resume_background_task("bg_nobody")
        async with Flujo(_ADD, state_backend=backend) as other:
            with pytest.raises(ConfigurationError, match="no background step 'flaky'"):
                await other.resume_background_task(task_id_of(first))


class TestCancel:
    async def test_the_run_goes_on_without_it(self) -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        async def wait(number: int) -> int:
            begun.set()
            await never.wait()
            return number

        async with Flujo(Pipeline([_behind(wait), _ADD])) as flujo:
            running = asyncio.ensure_future(flujo.run_result_async(1, run_id="r"))
            await begun.wait()
            (task,) = await flujo.get_background_tasks("r")

            assert task.status == "running"
            assert await flujo.cancel_background_task("r", task.task_id)
            result = await running

            assert (result.success, result.output) == (True, 2)
            assert result.step_history[0].metadata_["background_error"] == "cancelled"
            assert [task.status for task in await flujo.get_background_tasks("r")] == ["cancelled"]
            assert not await flujo.cancel_background_task("r", task.task_id)
            with pytest.raises(TaskNotFoundError):
                await flujo.cancel_background_task("r", "bg_nobody")

    async def test_stale_ones_are_cancelled(self) -> None:
        begun, never = asyncio.Event(), asyncio.Event()

        async def wait(number: int) -> int:
            begun.set()
            await never.wait()
            return number

        async with Flujo(Pipeline([_behind(wait), _ADD])) as flujo:
            running = asyncio.ensure_future(flujo.run_result_async(1, run_id="r"))
            await begun.wait()

            assert await flujo.cleanup_stale_background_tasks() == 0
            assert await flujo.cleanup_stale_background_tasks(stale_hours=-1) == 1
            assert (await running).success


class TestDecisions:
    @staticmethod
    def cancelled(*body: Any) -> Replay:
        run = Replay(background(*body), step("main"))
        run.decided("0!launch", task_id="bg_1")
        return run

    def test_nothing_of_it_starts_any_more_and_what_it_used_is_noted(self) -> None:
        run = self.cancelled(step("a"), step("b"))

        run.happen(EventKind.REVIVED, "0", how="cancel")
        run.succeed("0.0.0", usage="tokens=5")

        assert run.dispatched() == []
        assert (run.nodes["0.0.0"].status, run.nodes["0.0.0"].usage) == (NodeStatus.FAILED, {"tokens": 5})
        run.succeed("1")
        assert run.status is RunStatus.COMPLETED

    def test_the_run_waits_for_it_no_more(self) -> None:
        run = self.cancelled(step("a"))
        run.succeed("1")

        run.happen(EventKind.REVIVED, "0", how="cancel")

        assert run.status is RunStatus.COMPLETED

    def test_what_ended_before_stays_as_it_ended(self) -> None:
        run = self.cancelled(step("a"))
        run.succeed("0.0.0")

        run.happen(EventKind.REVIVED, "0", how="cancel")

        assert run.nodes["0.0"].status is NodeStatus.SUCCEEDED
        assert run.nodes["root"].background == 0

    @pytest.mark.parametrize(
        "kind", [EventKind.FAILED, EventKind.LOST, EventKind.ABORTED, EventKind.REFUSED, EventKind.BLOCKED]
    )
    def test_however_it_ends_the_run_is_as_it_was(self, kind: EventKind) -> None:
        run = self.cancelled(step("a"))
        run.happen(EventKind.REVIVED, "0", how="cancel")

        run.happen(kind, "0.0.0", reason="died", data='{"error":{"type":"E","message":"m"}}')

        assert run.dispatched() == []
        assert run.nodes["root"].active == 1  # main
        assert run.status is RunStatus.RUNNING

    def test_what_waits_in_it_holds_the_run_no_more(self) -> None:
        run = self.cancelled(parallel(hitl("ask"), step("dear")))
        run.happen(EventKind.PAUSED, "0.0.0.0.0", data='{"verdict":{"message":"well?"}}')
        run.happen(EventKind.BLOCKED, "0.0.0.1.0")

        run.happen(EventKind.REVIVED, "0", how="cancel")

        assert (run.nodes["root"].paused, run.nodes["root"].active) == (0, 1)
        run.happen(EventKind.UNBLOCKED, "0.0.0.1.0")
        assert run.dispatched() == []
