"""Workers and managers say whether they are of use, and leave when they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient
from flujo_client.cli.redis_server import free_port
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet

#: A manager whose ears were taken off.
_DEAF_MANAGER = """
import asyncio
from flujo_client.execution.service import ManagerService
from flujo_client.cli.main import main
async def listen(self, shard):
    await asyncio.Event().wait()
ManagerService._listen = listen
main()
"""


def _ask(fleet: Fleet, role: str, port: int) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", role, "--health"],
        env=fleet.environment | {"FLUJO_HEALTH_PORT": str(port)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("pool", ["asyncio", "prefork", "threads"])
async def test_a_worker_that_hears_its_broker_is_healthy(make_own_fleet: Callable[..., Fleet], pool: str) -> None:
    fleet, port = make_own_fleet(f"healthy-{pool}"), free_port()
    fleet.manager()
    worker = fleet.worker("--pool", pool, FLUJO_HEALTH_PORT=str(port), FLUJO_LOOP_STALL_S="5")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "chain")
        assert (await (await client.submit("chain", 1)).result(TIMEOUT_S)).output == 6

    await fleet.until(lambda: _ask(fleet, "worker", port)[0] == 0, "the worker is healthy")
    code, said = _ask(fleet, "worker", port)
    assert (code, said["role"], said["late"]) == (0, "worker", [])
    assert {"loop", "broker"} <= said["still_s"].keys()

    worker.terminate()
    assert worker.wait(60) == 0
    code, said = _ask(fleet, "worker", port)
    assert (code, said["healthy"]) == (1, False)


async def test_a_worker_that_lives_but_hears_nothing_more_says_so_and_leaves(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet, port = make_own_fleet("deaf", FLUJO_PIPELINES="tests.integration.deaf"), free_port()
    deaf = fleet.folder / "deaf"
    fleet.manager()
    worker = fleet.worker(FLUJO_HEALTH_PORT=str(port), FLUJO_LOOP_STALL_S="3", TEST_DEAF=str(deaf))
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "listening")
        assert (await (await client.submit("listening", "a")).result(TIMEOUT_S)).output == "a"
        deaf.touch()
        run = await client.submit("listening", "b")

        await fleet.until(lambda: _ask(fleet, "worker", port)[1].get("late") == ["broker"], "it says that it is deaf")

        assert worker.wait(60) == 1
        deaf.unlink()
        fleet.worker(TEST_DEAF=str(deaf))  # as its supervisor does
        assert (await run.result(TIMEOUT_S)).output == "b"


async def test_a_manager_that_lives_but_hears_nothing_more_leaves(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet, port = make_own_fleet("deaf-manager"), free_port()
    healthy = fleet.manager(FLUJO_HEALTH_PORT=str(port))
    await fleet.until(lambda: _ask(fleet, "manager", port)[0] == 0, "the manager is healthy")
    healthy.terminate()
    assert healthy.wait(60) == 0
    deaf = fleet.start_process(
        "-c", _DEAF_MANAGER, "manager", name="deaf", FLUJO_HEALTH_PORT=str(port), FLUJO_LOOP_STALL_S="2"
    )

    await fleet.until(lambda: _ask(fleet, "manager", port)[1].get("late") == ["inbox 0"], "it says that it is deaf")

    assert deaf.wait(60) == 1
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        assert await client.client.zcard(client.keyspace.shard("managers")) == 0  # it left with a word


def test_without_a_port_there_is_nobody_to_ask(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("nobody")
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", "worker", "--health"],
        env=fleet.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, "FLUJO_HEALTH_PORT is not set" in done.stderr) == (1, True)
