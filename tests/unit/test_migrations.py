"""A database of the first release is brought up to date with what it holds; one of a newer release is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import flujo_client.archive.migrations
from flujo_client.archive.backend import PipelineCosts
from flujo_client.archive.sql import PostgresBackend, SqlBackend, SQLiteBackend
from flujo_client.archive.tables import METADATA
from flujo_client.protocol.errors import StateUnavailableError
from tests.conftest import postgres_dsn

#: Rows as the first revision had them, in its own words: not made by the code of today.
ROWS = (
    """INSERT INTO flujo_runs (run_id, pipeline_name, pipeline_version, status, created_ms, finished_ms, cost_nanousd, tokens, error, data)
    VALUES ('r-1', 'digest', '1.0', 'completed', 1000, 2000, 2500000000, 40, NULL, '{"run_id": "r-1", "status": "completed"}'),
    ('r-2', 'digest', '1.0', 'failed', 3000, NULL, 500000000, 2, 'gone', '{"run_id": "r-2", "status": "failed"}')""",
    """INSERT INTO flujo_steps (step_run_id, run_id, step_index, step_name, status, latency_ms, cost_nanousd, tokens, data)
    VALUES ('r-1:1', 'r-1', 1, 'shout', 'completed', 12, 1, 20, '{"step_name": "shout"}'),
    ('r-1:0', 'r-1', 0, 'fetch', 'completed', 10, 1, 20, '{"step_name": "fetch"}')""",
    """INSERT INTO flujo_states (run_id, pipeline_id, status, created_ms, updated_ms, state)
    VALUES ('r-1', 'abc', 'completed', 1000, 2000, '{"run_id": "r-1", "pipeline_context": {"n": 1}}')""",
    """INSERT INTO flujo_traces (run_id, tree) VALUES ('r-1', '{"name": "pipeline_run", "children": []}')""",
    """INSERT INTO flujo_system (key, value) VALUES ('cursor', '7')""",
)


class Database:
    """A database of a test's own, and how the archive opens it."""

    def __init__(self, kind: str, place: str) -> None:
        self._kind, self._place = kind, place
        url = sa.URL.create("sqlite", database=place) if kind == "sqlite" else sa.make_url(place)
        driver = "sqlite" if kind == "sqlite" else "postgresql+psycopg"
        self.engine = sa.create_engine(url.set(drivername=driver))

    def backend(self) -> SqlBackend:
        return SQLiteBackend(self._place) if self._kind == "sqlite" else PostgresBackend(self._place)

    def at_first_revision(self) -> None:
        """The tables that the first release made, with rows in each."""
        with self.engine.begin() as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, _first())
        with self.engine.begin() as connection:
            for statement in ROWS:
                connection.exec_driver_sql(statement)


def _config() -> Config:
    config = Config()
    (folder,) = flujo_client.archive.migrations.__path__
    config.set_main_option("script_location", folder)
    return config


def _first() -> str:
    (base,) = ScriptDirectory.from_config(_config()).get_bases()
    return base


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    place = str(tmp_path / "x.db") if request.param == "sqlite" else request.getfixturevalue("postgres_schema")
    made = Database(request.param, place)
    yield made
    made.engine.dispose()


async def test_a_database_of_the_first_release_keeps_its_rows_and_gets_the_tables_of_today(database: Database) -> None:
    database.at_first_revision()
    backend = database.backend()

    kept = await backend.load_state("r-1")
    steps = await backend.list_run_steps("r-1")
    runs = await backend.list_runs(pipeline_name="digest")
    costs = await backend.costs_by_pipeline()
    trace, value = await backend.get_trace("r-1"), await backend.get_system_state("cursor")
    await backend.delete_state("r-1")
    left = await backend.list_run_steps("r-1")
    await backend.shutdown()

    assert kept == {"run_id": "r-1", "pipeline_context": {"n": 1}}
    assert [step["step_name"] for step in steps] == ["fetch", "shout"]
    assert [run["run_id"] for run in runs] == ["r-2", "r-1"]
    assert costs == [PipelineCosts("digest", 2, 1, 3_000_000_000, 42)]
    assert (trace, value) == ({"name": "pipeline_run", "children": []}, {"key": "cursor", "value": 7})
    assert left == []
    with database.engine.connect() as connection:
        now = MigrationContext.configure(connection, opts={"version_table": "flujo_schema"})
        assert now.get_current_heads() == tuple(ScriptDirectory.from_config(_config()).get_heads())
        assert [change for change in compare_metadata(now, METADATA) if not _is_other(change)] == []


def _is_other(change: Any) -> bool:
    """Of a table that is not the archive's."""
    return change[0] == "remove_table" and not change[1].name.startswith("flujo_")


async def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(database: Database) -> None:
    database.at_first_revision()
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE flujo_schema SET version_num = '9999'")
    backend = database.backend()

    with pytest.raises(StateUnavailableError, match=r"newer release.*9999") as told:
        await backend.save_trace("r-1", {"name": "other"})
    await backend.shutdown()

    assert "Upgrade this process" in str(told.value)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM flujo_schema").scalar() == "9999"
        assert "pipeline_run" in str(connection.exec_driver_sql("SELECT tree FROM flujo_traces").scalar())


def test_a_missing_postgres_skips_a_test_or_fails_it_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/nothing")

    monkeypatch.delenv("FLUJO_REQUIRE_POSTGRES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="TEST_POSTGRES_DSN"):
        postgres_dsn()
    monkeypatch.setenv("FLUJO_REQUIRE_POSTGRES", "1")
    with pytest.raises(pytest.fail.Exception, match="TEST_POSTGRES_DSN"):
        postgres_dsn()
