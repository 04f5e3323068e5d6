"""State backends: the same behaviour in memory, in files, in SQLite and in PostgreSQL."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flujo_client import ConfigurationError, SettingsError, StateUnavailableError
from flujo_client.archive.backend import PipelineCosts, StateBackend, WorkflowState
from flujo_client.archive.documents import FileBackend, InMemoryBackend
from flujo_client.archive.opening import open_backend, sql_backend
from flujo_client.archive.sql import PostgresBackend, SqlBackend, SQLiteBackend
from flujo_client.archive.tables import METADATA

KINDS = ["memory", "file", "sqlite", "postgres"]


@pytest.fixture(params=KINDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateBackend]:
    made: StateBackend
    if request.param == "memory":
        made = InMemoryBackend()
    elif request.param == "file":
        made = FileBackend(tmp_path / "states")
    elif request.param == "sqlite":
        made = SQLiteBackend(tmp_path / "deep" / "states.db")
    else:
        made = PostgresBackend(request.getfixturevalue("postgres_schema"))
    yield made
    if isinstance(made, SqlBackend):
        await made.shutdown()


def state(run_id: str, **facts: Any) -> dict[str, Any]:
    return WorkflowState(run_id=run_id, **facts).model_dump(mode="json")


async def test_a_state_is_kept_replaced_and_deleted_alone(backend: StateBackend) -> None:
    await backend.save_state("a", state("a", pipeline_context={"n": 1}))
    await backend.save_state("a", state("a", pipeline_context={"n": 2}, status="completed"))
    await backend.save_state("b/../c", state("b/../c"))

    kept = WorkflowState.model_validate(await backend.load_state("a"))
    assert (kept.pipeline_context, kept.status) == ({"n": 2}, "completed")
    await backend.delete_state("a")
    assert await backend.load_state("a") is None
    assert await backend.load_state("b/../c") is not None
    assert await backend.load_state("nobody") is None


async def test_a_state_is_swapped_by_one_of_many_who_saw_the_same(backend: StateBackend) -> None:
    await backend.save_state("a", state("a", status="paused", pipeline_context={"rate": float("nan")}))
    seen = await backend.load_state("a")
    assert seen is not None

    swaps = (backend.swap_state("a", seen, state("a", pipeline_context={"n": number})) for number in range(5))
    done = await asyncio.gather(*swaps)

    assert sorted(done) == [False] * 4 + [True]
    kept = await backend.load_state("a")
    assert kept is not None
    assert kept["pipeline_context"] == {"n": done.index(True)}
    assert not await backend.swap_state("nobody", seen, seen)
    assert await backend.load_state("nobody") is None


async def test_traces_are_kept(backend: StateBackend) -> None:
    await backend.save_trace("a", {"name": "pipeline_run"})
    await backend.save_trace("a", {"name": "pipeline_run", "children": []})

    assert await backend.get_trace("a") == {"name": "pipeline_run", "children": []}
    assert await backend.get_trace("nobody") is None


async def test_a_run_is_kept_from_its_start_to_its_end_whatever_is_repeated(backend: StateBackend) -> None:
    start = {"run_id": "a", "pipeline_name": "digest", "created_at": "2026-01-02T03:04:05+00:00"}
    end = {"status": "completed", "total_cost_usd": 0.25, "total_tokens": 9, "finished_at": "2026-01-02T03:04:06+00:00"}
    for _ in range(2):
        await backend.save_run_start(start)
        await backend.save_step_result({"step_run_id": "a:1", "run_id": "a", "step_index": 1, "step_name": "two"})
        await backend.save_step_result({"step_run_id": "a:0", "run_id": "a", "step_index": 0, "step_name": "one"})
        await backend.save_run_end("a", end)
    await backend.save_run_start(start)

    details = await backend.get_run_details("a")
    assert details is not None
    assert details["status"] == "completed"
    assert details["pipeline_name"] == "digest"
    assert [step["step_name"] for step in await backend.list_run_steps("a")] == ["one", "two"]
    assert await backend.get_run_details("nobody") is None


async def test_runs_are_listed_newest_first_by_status_and_pipeline(backend: StateBackend) -> None:
    for number, (status, pipeline) in enumerate([("completed", "x"), ("failed", "x"), ("completed", "y")]):
        at = f"2026-01-0{number + 1}T00:00:00+00:00"
        await backend.save_run_start({"run_id": f"r{number}", "pipeline_name": pipeline, "created_at": at})
        await backend.save_run_end(f"r{number}", {"status": status})

    assert [run["run_id"] for run in await backend.list_runs()] == ["r2", "r1", "r0"]
    assert [run["run_id"] for run in await backend.list_runs(status="completed")] == ["r2", "r0"]
    assert [run["run_id"] for run in await backend.list_runs(pipeline_name="x", limit=1, offset=1)] == ["r0"]


async def test_workflows_are_counted_listed_and_cleaned_up(backend: StateBackend) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=40)
    await backend.save_state("old", state("old", status="completed", updated_at=long_ago, created_at=long_ago))
    await backend.save_state("stuck", state("stuck", status="running", updated_at=long_ago, created_at=long_ago))
    await backend.save_state("bad", state("bad", status="failed", pipeline_id="p", pipeline_context={"big": 1}))

    assert await backend.get_workflow_stats() == {
        "total_workflows": 3,
        "status_counts": {"completed": 1, "running": 1, "failed": 1},
    }
    assert [found["run_id"] for found in await backend.get_failed_workflows()] == ["bad"]
    assert [found["run_id"] for found in await backend.list_workflows(pipeline_id="p")] == ["bad"]
    assert "pipeline_context" not in (await backend.list_workflows(status="failed"))[0]
    assert await backend.cleanup_old_workflows(30) == 1
    assert await backend.load_state("old") is None
    assert await backend.load_state("stuck") is not None


async def test_the_applications_own_values_are_kept(backend: StateBackend) -> None:
    await backend.set_system_state("cursor", {"at": 1})
    await backend.set_system_state("cursor", {"at": 2})

    assert await backend.get_system_state("cursor") == {"key": "cursor", "value": {"at": 2}}
    assert await backend.get_system_state("nothing") is None
    assert await backend.list_workflows() == []


async def test_writers_at_once_lose_nothing(backend: StateBackend) -> None:
    await backend.save_run_start({"run_id": "a", "pipeline_name": "p"})
    steps = [{"step_run_id": f"a:{index}", "run_id": "a", "step_index": index} for index in range(20)]
    await asyncio.gather(*(backend.save_step_result(step) for step in steps))

    assert len(await backend.list_run_steps("a")) == 20


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_costs_are_a_query(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made: SqlBackend = (
        SQLiteBackend(tmp_path / "x.db")
        if kind == "sqlite"
        else PostgresBackend(request.getfixturevalue("postgres_schema"))
    )
    for run_id, pipeline, status, usd in [
        ("1", "x", "completed", 0.5),
        ("2", "x", "failed", 0.25),
        ("3", "y", "completed", 2.0),
    ]:
        await made.save_run_start({"run_id": run_id, "pipeline_name": pipeline})
        await made.save_run_end(run_id, {"status": status, "total_cost_usd": usd, "total_tokens": 10})

    assert await made.costs_by_pipeline() == [
        PipelineCosts("y", 1, 0, 2_000_000_000, 10),
        PipelineCosts("x", 2, 1, 750_000_000, 20),
    ]
    assert await made.costs_by_pipeline(since_ms=2**50) == []
    await made.shutdown()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_the_schema_is_migrated_once_by_processes_that_start_together_and_is_what_the_tables_say(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    dsn = "" if kind == "sqlite" else request.getfixturevalue("postgres_schema")
    make = f"SQLiteBackend({str(tmp_path / 'x.db')!r})" if kind == "sqlite" else f"PostgresBackend({dsn!r})"
    script = (
        "import asyncio, sys\n"
        "from flujo_client.archive.sql import PostgresBackend, SQLiteBackend\n"
        f"asyncio.run({make}.set_system_state(sys.argv[1], 1))\n"
    )
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(number), stderr=subprocess.PIPE)
        for number in range(3)
    ]
    for process in started:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()

    made = SQLiteBackend(tmp_path / "x.db") if kind == "sqlite" else PostgresBackend(dsn)
    assert [await made.get_system_state(str(number)) for number in range(3)] == [
        {"key": str(number), "value": 1} for number in range(3)
    ]
    with made._engine.connect() as connection:
        found = sa.inspect(connection)
        for table in METADATA.sorted_tables:
            assert {column["name"] for column in found.get_columns(table.name)} == set(table.columns.keys())
            assert {index["name"] for index in found.get_indexes(table.name)} == {index.name for index in table.indexes}
    await made.shutdown()


async def test_a_backend_survives_the_process(tmp_path: Path) -> None:
    for first, second in [
        (FileBackend(tmp_path), FileBackend(tmp_path)),
        (SQLiteBackend(tmp_path / "x.db"), SQLiteBackend(tmp_path / "x.db")),
    ]:
        await first.save_state("a", state("a"))
        assert await second.load_state("a") is not None


def test_a_uri_names_a_backend(tmp_path: Path) -> None:
    assert isinstance(open_backend("memory://"), InMemoryBackend)
    assert isinstance(open_backend(f"file://{tmp_path}"), FileBackend)
    assert isinstance(open_backend(f"sqlite:///{tmp_path}/x.db"), SQLiteBackend)
    assert isinstance(open_backend("postgres://u:p@h/d"), PostgresBackend)
    for uri in ("redis://x", "sqlite://", "x"):
        with pytest.raises(SettingsError, match="names no state backend"):
            open_backend(uri)


async def test_a_database_that_is_away_is_one_error_without_its_password() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        away = PostgresBackend(f"postgresql://me:secret@127.0.0.1:{port}/x")
        with pytest.raises(StateUnavailableError) as caught:
            await away.load_state("a")

    assert "secret" not in str(caught.value)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flujo_client.archive.sql", None)

    missing = sql_backend("SQLiteBackend")

    with pytest.raises(ConfigurationError, match=r"flujo-distributed\[sql\]"):
        missing("x.db")


async def test_a_backend_need_not_do_more_than_five_things() -> None:
    class Least(StateBackend):
        async def save_state(self, run_id: str, state: dict[str, Any]) -> None: ...
        async def load_state(self, run_id: str) -> dict[str, Any] | None: ...
        async def delete_state(self, run_id: str) -> None: ...
        async def get_trace(self, run_id: str) -> dict[str, Any] | None: ...
        async def save_trace(self, run_id: str, trace: dict[str, Any]) -> None: ...

    with pytest.raises(NotImplementedError):
        await Least().list_runs()
