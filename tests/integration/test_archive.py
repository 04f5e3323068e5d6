"""Finished runs go to SQL, whoever dies on the way, and are read from there."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, RunNotFoundError, RunStatus, UsageLimitExceededError, UsageLimits
from flujo_client.archive.sql import PostgresBackend, SqlBackend, SQLiteBackend
from tests.conftest import postgres_dsn
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet


@pytest.fixture(scope="module")
def archive_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archive") / "runs.db"


@pytest.fixture(scope="module")
def archiving(make_fleet: Callable[..., Fleet], archive_file: Path) -> Fleet:
    made = make_fleet("archiving", FLUJO_STATE_URI=f"sqlite:///{archive_file}")
    made.manager()
    made.worker()
    asyncio.run(made.ready(1))
    return made


async def until_archived(fleet: Fleet, backend: SqlBackend, run_id: str) -> dict[str, Any]:
    async def archived() -> Any:
        state = await backend.load_state(run_id)
        return state if state is not None and state["status"] != "running" else None

    found: dict[str, Any] = await fleet.until(archived, f"{run_id} is archived")
    return found


def command(fleet: Fleet, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", *words, "--json"],
        env=fleet.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


async def test_history_traces_and_costs_are_queries_after_the_keys_are_gone(
    archiving: Fleet, archive_file: Path
) -> None:
    backend = SQLiteBackend(archive_file)
    settings = archiving.settings().model_copy(update={"state_uri": f"sqlite:///{archive_file}"})
    async with AsyncFlujoClient(settings=settings) as client:
        await archiving.published(client, "digest")
        run = await client.submit("digest", {"url": "abc"}, run_id="kept")
        live = await run.result(TIMEOUT_S)
        poor = await client.submit(
            "digest", {"url": "abc"}, run_id="poor", usage_limits=UsageLimits(total_tokens_limit=1)
        )
        with pytest.raises(UsageLimitExceededError):
            await poor.result(TIMEOUT_S)
        for run_id in ("kept", "poor"):
            await until_archived(archiving, backend, run_id)
        waiting = client.keyspace.shard("unarchived")
        await archiving.until(lambda: _none_wait(client, waiting), "no run waits for the archive")
        for key in [key async for key in client.client.scan_iter(match="*:run:kept:*")]:
            await client.client.delete(key)  # as when its retention is over
        again = await run.result(TIMEOUT_S)
        with pytest.raises(RunNotFoundError):
            await client.run("nobody").result(1)

    assert (again.output, again.status, again.usage) == (live.output, RunStatus.COMPLETED, live.usage)
    assert again.total_tokens == live.total_tokens == 9
    listed = await asyncio.to_thread(command, archiving, "history", "--pipeline", "digest")
    assert {row["run_id"]: row["status"] for row in listed["runs"]} == {"kept": "completed", "poor": "failed"}
    shown = await asyncio.to_thread(command, archiving, "history", "kept")
    assert [step["step_name"] for step in shown["steps"]] == ["fetch", "shout", "measure", "combine"]
    assert shown["trace"]["name"] == "pipeline_run"
    paid = await asyncio.to_thread(command, archiving, "costs", "--days", "1")
    assert [(row["pipeline_name"], row["runs"], row["failed"]) for row in paid["pipelines"]] == [("digest", 2, 1)]
    await backend.shutdown()


async def _none_wait(client: AsyncFlujoClient, key: str) -> bool:
    return not await client.client.zcard(key)


async def test_a_run_whose_manager_died_before_archiving_it_is_archived_by_another(
    make_own_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = make_own_fleet("archiver-dies")
    fleet.manager()  # has no archive: the run ends, and waits for one
    fleet.worker()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "digest")
        await (await client.submit("digest", {"url": "abc"}, run_id="orphan")).result(TIMEOUT_S)
        assert await client.client.zcard(client.keyspace.shard("unarchived")) == 1
        await client.client.set(client.keyspace.archiver(0), "dead-manager", px=1_500)  # it died while it archived

    backend = SQLiteBackend(tmp_path / "runs.db")
    fleet.manager(FLUJO_STATE_URI=f"sqlite:///{tmp_path}/runs.db")
    assert (await until_archived(fleet, backend, "orphan"))["status"] == "completed"
    await backend.shutdown()


async def test_postgres_keeps_runs_of_a_fleet_and_history_and_costs_query_it(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    dsn = postgres_dsn()
    backend = PostgresBackend(dsn)
    fleet = make_own_fleet("postgres", FLUJO_STATE_URI=dsn)
    fleet.manager()
    fleet.worker()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "digest")
        run = await client.submit("digest", {"url": "abc"})
        await run.result(TIMEOUT_S)
        assert (await until_archived(fleet, backend, run.run_id))["pipeline_name"] == "digest"
        listed = await asyncio.to_thread(command, fleet, "history", "--pipeline", "digest", "--status", "completed")
        shown = await asyncio.to_thread(command, fleet, "history", run.run_id)
        paid = await asyncio.to_thread(command, fleet, "costs", "--days", "1")
        await backend.delete_state(run.run_id)
    await backend.shutdown()

    assert run.run_id in {row["run_id"] for row in listed["runs"]}
    assert [step["step_name"] for step in shown["steps"]] == ["fetch", "shout", "measure", "combine"]
    assert shown["trace"]["name"] == "pipeline_run"
    assert "digest" in {row["pipeline_name"] for row in paid["pipelines"]}
