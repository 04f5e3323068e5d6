"""Background steps of runs on a fleet, looked after from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Flujo, TaskNotFoundError
from tests.integration import control_flow
from tests.integration.conftest import Fleet


def _cli(fleet: Fleet, *command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", *command, "--json"],
        env=fleet.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


async def test_one_is_listed_and_cancelled_and_the_run_ends_without_it(client: AsyncFlujoClient, fleet: Fleet) -> None:
    await fleet.published(client, "beside")
    run = await client.submit("beside", "cancel-me")
    await fleet.started(run.run_id, "0.0.0")

    (task,) = await run.background_tasks()
    listed = _cli(fleet, "background", run.run_id)["tasks"]
    cancelled = await run.cancel_background(task.task_id)
    result = await run.result(timeout_s=60)

    assert (task.status, task.given, task.step_name) == ("running", "cancel-me", "held")
    assert [row["task_id"] for row in listed] == [task.task_id]
    assert cancelled
    assert (result.success, result.output) == (True, "after cancel-me")
    assert [one.status for one in await run.background_tasks()] == ["cancelled"]
    fleet.open_gate("cancel-me")  # whoever still ran it was stopped with the run
    assert fleet.entries(kind="bill", run_id=run.run_id, path="0.0.0") == []
    with pytest.raises(TaskNotFoundError):
        await run.cancel_background("bg_nobody")


async def test_the_command_line_cancels_one(client: AsyncFlujoClient, fleet: Fleet) -> None:
    run = await client.submit("beside", "cancel-me-too")
    await fleet.started(run.run_id, "0.0.0")
    (task,) = await run.background_tasks()

    told = _cli(fleet, "background", run.run_id, "--cancel", task.task_id)

    assert told["cancelled"] is True
    assert (await run.result(timeout_s=60)).output == "after cancel-me-too"
    assert _cli(fleet, "background", run.run_id, "--cancel", task.task_id)["cancelled"] is False


async def test_what_one_gave_is_read_by_another_client(client: AsyncFlujoClient, fleet: Fleet) -> None:
    fleet.open_gate("open")
    run = await client.submit("beside", "open")
    await run.result(timeout_s=60)

    (task,) = await run.background_tasks()

    assert task.status == "completed"
    assert task.result is not None
    assert task.result.output == "open"


async def test_a_failed_one_is_run_again_on_the_fleet(fleet: Fleet) -> None:
    async with Flujo(control_flow.launching, settings=fleet.settings()) as flujo:
        first = await flujo.run_async(-3, run_id="launching-fails")
        (failed,) = await flujo.get_failed_background_tasks("launching-fails")
        again = await flujo.resume_background_task(failed.task_id, new_data=4)

        assert first.success
        assert failed.given == -3
        assert (again.output, again.run_id) == (4000, f"launching-fails_bg_{failed.task_id}")
        assert await flujo.get_failed_background_tasks("launching-fails") == []
