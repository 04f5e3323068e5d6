"""Human pauses on a fleet: asked on a worker, answered from anywhere, and nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from flujo_client import (
    AsyncFlujoClient,
    Flujo,
    InMemoryBackend,
    PipelineResult,
    RunStatus,
    TaskClient,
    UsageLimits,
)
from flujo_client.protocol.errors import ConfigurationError, ResumeError, TaskNotFoundError, TypeMismatchError
from flujo_client.protocol.messages import EventKind
from tests.integration.conftest import ROOT, Fleet
from tests.integration.human import approval, talk

YES = {"approved": True, "by": "ann"}


async def _paused(fleet: Fleet, client: AsyncFlujoClient, run_id: str) -> None:
    async def rests() -> bool:
        return await client.run(run_id).status() is RunStatus.PAUSED

    await fleet.until(rests, f"{run_id} is paused")


async def test_a_run_is_answered_by_another_client_and_bills_once(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "cats", usage_limits=UsageLimits(total_tokens_limit=11))
    await _paused(fleet, client, run.run_id)
    (pause,) = await run.pauses()
    assert (pause.message, pause.step_name, pause.token) == ("Publish CATS?", "ask", "1")
    assert "approved" in pause.answer_schema["properties"]

    with pytest.raises(TypeMismatchError, match=r"'by' is a required property"):
        await run.resume({"approved": True})
    assert await run.status() is RunStatus.PAUSED
    await run.resume(YES)

    result = await run.result(timeout_s=60)
    assert result.output == "ann: True, asked 1 times"
    assert result.total_tokens == 11
    assert len(fleet.entries(run_id=run.run_id, kind="bill")) == 1
    with pytest.raises(ResumeError, match="is completed"):
        await run.resume(YES)


async def test_a_run_of_a_fleet_is_answered_by_a_task_client(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "cats")
    await _paused(fleet, client, run.run_id)

    async with TaskClient(InMemoryBackend(), settings=fleet.settings()) as tasks:
        with pytest.raises(ConfigurationError, match="runs pipeline 'approval' latest, which is not at hand"):
            await tasks.resume_task(run.run_id, YES)
        result = await tasks.resume_task(run.run_id, YES, pipeline=approval)
        with pytest.raises(ResumeError, match="not paused"):
            await tasks.resume_task(run.run_id, YES, pipeline=approval)
        with pytest.raises(TaskNotFoundError):
            await tasks.resume_task("nobody", YES, pipeline=approval)

    assert (result.status, result.output) == (RunStatus.COMPLETED, "ann: True, asked 1 times")
    assert len(fleet.entries(run_id=run.run_id, kind="bill")) == 1


async def test_a_step_that_raises_pauses_on_a_worker(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "doubtful-human")
    run = await client.submit("doubtful-human", "cats")
    await _paused(fleet, client, run.run_id)
    assert [pause.message for pause in await run.pauses()] == ["What of cats?"]

    await run.resume(YES)

    assert (await run.result(timeout_s=60)).output == "ann: True, asked 1 times"


async def test_several_questions_are_answered_by_token_while_another_branch_goes_on(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "both-human")
    run = await client.submit("both-human", "beside")

    async def asked() -> bool:
        return len(await run.pauses()) == 2

    await fleet.until(asked, "both are asked")
    assert await run.status() is RunStatus.RUNNING
    fleet.open_gate("beside")
    await _paused(fleet, client, run.run_id)

    with pytest.raises(ResumeError, match=r"asks 2 questions. Answer by token: 0.0.0 \(left\), 0.1.0 \(right\)"):
        await run.resume("x")
    await run.resume("r", token="0.1.0")
    assert [pause.token for pause in await run.pauses()] == ["0.0.0"]
    await run.resume("l")

    assert (await run.result(timeout_s=60)).output == {"left": "l", "right": "r", "other": "beside"}


async def test_of_many_answers_at_once_one_wins(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "race")
    await _paused(fleet, client, run.run_id)
    clients = [AsyncFlujoClient(settings=fleet.settings()) for _ in range(4)]

    replies = await asyncio.gather(
        *(
            other.run(run.run_id).resume({"approved": True, "by": f"n{number}"}, token="1")
            for number, other in enumerate(clients)
        ),
        return_exceptions=True,
    )

    winners = [number for number, reply in enumerate(replies) if reply is None]
    assert len(winners) == 1
    assert all("came too late" in str(reply) for reply in replies if reply is not None)
    assert (await run.result(timeout_s=60)).output == f"n{winners[0]}: True, asked 1 times"
    for other in clients:
        await other.close()


async def test_an_answer_that_comes_before_the_question_is_not_lost(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "early", run_id="early-answer")

    await run.resume(YES, token="1")

    assert (await run.result(timeout_s=60)).output == "ann: True, asked 1 times"
    kinds = [event.kind async for event in run.events()]
    assert EventKind.PAUSED in kinds
    assert kinds.count(EventKind.ANSWERED) == 1


async def test_an_answer_after_a_cancel_is_refused(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "approval")
    run = await client.submit("approval", "cancelled")
    await _paused(fleet, client, run.run_id)
    await run.cancel()

    with pytest.raises(ResumeError):
        await run.resume(YES, token="1")


async def test_a_paused_result_is_resumed_by_another_process(fleet: Fleet) -> None:
    async with Flujo(talk, settings=fleet.settings(), usage_limits=UsageLimits(total_tokens_limit=20)) as flujo:
        paused = await flujo.run_async("hello")
    assert (paused.status, paused.success) == (RunStatus.PAUSED, False)
    assert paused.final_pipeline_context.pause_message == "Publish HELLO?"

    program = """
import asyncio, json, sys
from flujo_client import Flujo, PipelineResult
from tests.integration.human import talk
async def main():
    async with Flujo(talk) as flujo:
        paused = PipelineResult.model_validate_json(sys.stdin.read())
        again = await flujo.resume_async(paused, {"approved": False, "by": "bob"})
        print(json.dumps([again.status, again.success, (await flujo.resume_async(again, {"approved": True, "by": "bob"})).model_dump(mode="json")]))
asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program],
        input=paused.model_dump_json().encode(),
        env=fleet.environment,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    status, success, last = json.loads(done.stdout.decode().splitlines()[-1])
    assert (status, success) == ("paused", True)
    result = PipelineResult.model_validate(last)
    assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 20)
    assert result.output == {"approved": True, "by": "bob"}


async def test_managers_and_workers_that_die_while_a_run_waits_change_nothing(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("mortal")
    first = [fleet.manager(), fleet.worker()]
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "approval")
        run = await client.submit("approval", "cats")
        await _paused(fleet, client, run.run_id)
        for process in first:
            process.kill()
            process.wait()
        await run.resume(YES)
        fleet.manager()
        fleet.worker()

        assert (await run.result(timeout_s=60)).output == "ann: True, asked 1 times"
        assert len(fleet.entries(run_id=run.run_id, kind="bill")) == 1


async def test_time_runs_out_under_a_manager_that_comes_later(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("expiring")
    first = fleet.manager()
    fleet.worker()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "expiring-human")
        run = await client.submit("expiring-human", "cats")
        await _paused(fleet, client, run.run_id)
        (pause,) = await run.pauses()
        assert pause.expires_at is not None
        assert (pause.expires_at - pause.asked_at).total_seconds() == 1
        first.kill()
        first.wait()
        fleet.manager()

        assert (await run.result(timeout_s=60)).output == "nobody: False, asked 1 times"
        kinds = [event.kind async for event in run.events()]
        assert kinds.count(EventKind.REMINDED) == 1
        with pytest.raises(ResumeError):
            await run.resume(YES, token="0")


async def test_a_state_is_left_when_its_question_is_answered(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "talking-human")
    run = await client.submit("talking-human", "cats")
    await _paused(fleet, client, run.run_id)

    await run.resume("not now")

    result = await run.result(timeout_s=60)
    assert result.output == "later: not now"
    assert result.step_history[0].metadata_ == {"states": ["ask", "later"]}


async def test_it_runs_in_process_as_on_the_fleet(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LEDGER", str(fleet.folder / "ledger"))
    async with Flujo(approval) as flujo:
        paused = await flujo.run_async("cats")

        result = await flujo.resume_async(paused, YES)

    assert result.output == "ann: True, asked 1 times"
