"""Hooks on a fleet: those of the caller, with values and contexts; those of the workers' module, beside the steps."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Flujo, HookPayload, PostStepPayload, PreStepPayload, RunStatus
from tests.integration.conftest import Fleet
from tests.integration.hooked import hooked


async def test_the_callers_hooks_hear_values_from_workers(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "hooked")
    heard: list[Any] = []

    async def hear(payload: HookPayload) -> None:
        heard.append(payload)

    async with Flujo(hooked, settings=fleet.settings(), hooks=[hear]) as flujo:
        result = await flujo.run_async(6)

    assert result.output == {"a": 7, "b": 7}
    assert not result.left_by_caller
    assert [payload.event_name for payload in heard[:5]] == [
        "pre_run",
        "pre_step",
        "post_step",
        "pre_step",
        "post_step",
    ]
    assert [payload.event_name for payload in heard[-2:]] == ["post_step", "post_run"]
    inputs = {payload.path: payload.step_input for payload in heard if isinstance(payload, PreStepPayload)}
    outputs = {payload.path: payload.step_result.output for payload in heard if isinstance(payload, PostStepPayload)}
    assert inputs == {"0": 6, "1": 7, "2": 7, "2.0.0": 7, "2.1.0": 7}
    assert outputs == {"0": 7, "1": 7, "2.0.0": 7, "2.1.0": 7, "2": {"a": 7, "b": 7}}


@pytest.mark.parametrize(("value", "when"), [(1, "after"), (2, "before")])
async def test_a_workers_hook_aborts_a_run(fleet: Fleet, client: AsyncFlujoClient, value: int, when: str) -> None:
    await fleet.published(client, "hooked")

    result = await (await client.submit("hooked", value)).result(timeout_s=60)

    assert result.status is RunStatus.ABORTED
    assert (result.error or {})["message"] == f"the worker's hook stops {when} it"
    tripwire = result.step_history[1]  # after it what follows may have begun: the hook runs beside the commit
    assert (tripwire.name, tripwire.success) == ("tripwire", when == "after")
