"""`SQLiteBackend` and `PostgresBackend`: states and finished runs in tables, so that history and cost are queries.

Needs the extra `sql`. SQLAlchemy's core does the work in threads; the schema is brought up to date when a backend is first used.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from flujo_client.archive.backend import Document, PipelineCosts, StateBackend, same_state
from flujo_client.archive.tables import RUNS, STATES, STEPS, SYSTEM, TRACES
from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.quota import to_nano_usd

__all__ = ["PostgresBackend", "SQLiteBackend", "SqlBackend"]

T = TypeVar("T")

#: Of the advisory lock under which PostgreSQL's schema is migrated, by one process at a time.
_MIGRATION_LOCK = 0x666C756A

#: Statuses of workflows that have not ended.
_OPEN = ("running", "paused")


class SqlBackend(StateBackend):
    """A state backend over a SQL database.

    Args:
        url: As SQLAlchemy takes it.
    """

    def __init__(self, url: str | sa.URL) -> None:
        self._engine = sa.create_engine(url, pool_pre_ping=True)
        self._migrated = False
        self._lock = threading.Lock()

    async def _do(self, work: Callable[[sa.Connection], T]) -> T:
        """Work in one transaction, in a thread. Raises `StateUnavailableError` if the database does not take it, or has tables that
        this release does not know."""
        place = self._engine.url.render_as_string(hide_password=True)
        try:
            return await asyncio.to_thread(self._transact, work)
        except SQLAlchemyError as error:
            raise StateUnavailableError(
                f"The state backend {place} failed: {str(error).splitlines()[0]}.", suggestion="Try again."
            ) from error
        except CommandError as error:
            raise StateUnavailableError(
                f"The state backend {place} was brought up to date by a newer release: {error}.",
                suggestion="Upgrade this process; until then nothing is read or written there.",
            ) from error

    def _transact(self, work: Callable[[sa.Connection], T]) -> T:
        with self._lock:
            if not self._migrated:
                self._migrate()
                self._migrated = True
        with self._engine.begin() as connection:
            return work(connection)

    def _migrate(self) -> None:
        """Bring the schema up to date; one process at a time, the others find it done."""
        with self._engine.connect() as connection, as_file(files("flujo_client.archive") / "migrations") as folder:
            config = Config()
            config.set_main_option("script_location", str(folder))
            config.attributes["connection"] = connection
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            else:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(config, "head")
            connection.commit()

    def _upsert(self, connection: sa.Connection, table: sa.Table, values: Document) -> None:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        keys = [column.name for column in table.primary_key]
        statement = dialect.insert(table).values(values)
        changed = {name: statement.excluded[name] for name in values if name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed))

    async def save_state(self, run_id: str, state: Document) -> None:
        """See `StateBackend`."""
        await self._do(lambda connection: self._upsert(connection, STATES, _state_row(run_id, state)))

    async def swap_state(self, run_id: str, expected: Document, state: Document) -> bool:
        """See `StateBackend`."""
        query = sa.select(STATES.c.state).where(STATES.c.run_id == run_id).with_for_update()

        def swap(connection: sa.Connection) -> bool:
            if connection.dialect.name == "sqlite":  # which knows no row locks, and begins no transaction with a read
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if not same_state(connection.scalar(query), expected):
                return False
            self._upsert(connection, STATES, _state_row(run_id, state))
            return True

        return await self._do(swap)

    async def load_state(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return await self._do(
            lambda connection: connection.scalar(sa.select(STATES.c.state).where(STATES.c.run_id == run_id))
        )

    async def delete_state(self, run_id: str) -> None:
        """See `StateBackend`."""
        await self._do(lambda connection: _delete(connection, [run_id]))

    async def get_trace(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return await self._do(
            lambda connection: connection.scalar(sa.select(TRACES.c.tree).where(TRACES.c.run_id == run_id))
        )

    async def save_trace(self, run_id: str, trace: Document) -> None:
        """See `StateBackend`."""
        await self._do(lambda connection: self._upsert(connection, TRACES, {"run_id": run_id, "tree": trace}))

    async def save_run_start(self, run_data: Document) -> None:
        """See `StateBackend`."""

        def store(connection: sa.Connection) -> None:
            if connection.scalar(sa.select(RUNS.c.run_id).where(RUNS.c.run_id == run_data["run_id"])) is None:
                self._upsert(connection, RUNS, _run_row({"status": "running", **run_data}))

        await self._do(store)

    async def save_step_result(self, step_data: Document) -> None:
        """See `StateBackend`."""
        values = {
            "step_run_id": step_data["step_run_id"],
            "run_id": step_data["run_id"],
            "step_index": step_data.get("step_index", 0),
            "step_name": step_data.get("step_name", ""),
            "status": step_data.get("status", "completed"),
            "latency_ms": step_data.get("duration_ms") or 0,
            "cost_nanousd": to_nano_usd(step_data.get("cost_usd") or 0.0),
            "tokens": step_data.get("token_counts") or 0,
            "data": step_data,
        }
        await self._do(lambda connection: self._upsert(connection, STEPS, values))

    async def save_run_end(self, run_id: str, end_data: Document) -> None:
        """See `StateBackend`."""

        def store(connection: sa.Connection) -> None:
            before = connection.scalar(sa.select(RUNS.c.data).where(RUNS.c.run_id == run_id)) or {}
            self._upsert(connection, RUNS, _run_row({**before, "run_id": run_id, **end_data}))

        await self._do(store)

    async def get_run_details(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return await self._do(
            lambda connection: connection.scalar(sa.select(RUNS.c.data).where(RUNS.c.run_id == run_id))
        )

    async def list_runs(
        self, status: str | None = None, pipeline_name: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """See `StateBackend`."""
        query = sa.select(RUNS.c.data).order_by(RUNS.c.created_ms.desc(), RUNS.c.run_id).limit(limit).offset(offset)
        if status is not None:
            query = query.where(RUNS.c.status == status)
        if pipeline_name is not None:
            query = query.where(RUNS.c.pipeline_name == pipeline_name)
        return await self._do(lambda connection: list(connection.scalars(query)))

    async def list_run_steps(self, run_id: str) -> list[Document]:
        """See `StateBackend`."""
        query = sa.select(STEPS.c.data).where(STEPS.c.run_id == run_id).order_by(STEPS.c.step_index)
        return await self._do(lambda connection: list(connection.scalars(query)))

    async def list_workflows(
        self, status: str | None = None, pipeline_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """See `StateBackend`."""
        query = sa.select(STATES.c.state).order_by(STATES.c.created_ms.desc()).limit(limit).offset(offset)
        if status is not None:
            query = query.where(STATES.c.status == status)
        if pipeline_id is not None:
            query = query.where(STATES.c.pipeline_id == pipeline_id)
        return [_light(state) for state in await self._do(lambda connection: list(connection.scalars(query)))]

    async def get_workflow_stats(self) -> Document:
        """See `StateBackend`."""
        query = sa.select(STATES.c.status, sa.func.count()).group_by(STATES.c.status)
        counts = {status: count for status, count in await self._do(lambda found: found.execute(query).all())}
        return {"total_workflows": sum(counts.values()), "status_counts": counts}

    async def get_failed_workflows(self, hours_back: int = 24) -> list[Document]:
        """See `StateBackend`."""
        since = _now_ms() - hours_back * 3_600_000
        query = sa.select(STATES.c.state).where(STATES.c.status == "failed", STATES.c.updated_ms >= since)
        found = await self._do(lambda connection: list(connection.scalars(query.order_by(STATES.c.updated_ms.desc()))))
        return [_light(state) for state in found]

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """See `StateBackend`."""
        before = _now_ms() - round(days_old * 86_400_000)
        query = sa.select(STATES.c.run_id).where(STATES.c.status.not_in(_OPEN), STATES.c.updated_ms < before)

        def clean(connection: sa.Connection) -> int:
            old = list(connection.scalars(query))
            _delete(connection, old)
            return len(old)

        return await self._do(clean)

    async def costs_by_pipeline(self, since_ms: int = 0) -> list[PipelineCosts]:
        """See `StateBackend`."""
        failed = sa.func.sum(sa.case((RUNS.c.status == "completed", 0), else_=1))
        cost = sa.func.sum(RUNS.c.cost_nanousd)
        query = (
            sa.select(RUNS.c.pipeline_name, sa.func.count(), failed, cost, sa.func.sum(RUNS.c.tokens))
            .where(RUNS.c.created_ms >= since_ms)
            .group_by(RUNS.c.pipeline_name)
            .order_by(cost.desc(), RUNS.c.pipeline_name)
        )
        rows = await self._do(lambda connection: connection.execute(query).all())
        return [PipelineCosts(name, *(int(number) for number in numbers)) for name, *numbers in rows]

    async def get_system_state(self, key: str) -> Document | None:
        """See `StateBackend`."""
        query = sa.select(SYSTEM.c.value).where(SYSTEM.c.key == key)
        rows = await self._do(lambda connection: connection.execute(query).all())
        return {"key": key, "value": rows[0][0]} if rows else None

    async def set_system_state(self, key: str, value: Any) -> None:
        """See `StateBackend`."""
        await self._do(lambda connection: self._upsert(connection, SYSTEM, {"key": key, "value": value}))

    async def shutdown(self) -> None:
        """See `StateBackend`."""
        await asyncio.to_thread(self._engine.dispose)


class SQLiteBackend(SqlBackend):
    """States in a SQLite file.

    Args:
        db_path: The file; made if it is missing.
    """

    def __init__(self, db_path: str | os.PathLike[str]) -> None:
        Path(db_path).parent.mkdir(parents=True, exist_ok=True)
        super().__init__(sa.URL.create("sqlite", database=str(db_path)))
        sa.event.listen(self._engine, "connect", _prepare_sqlite)


class PostgresBackend(SqlBackend):
    """States in PostgreSQL.

    Args:
        dsn: postgresql://user:password@host/database
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(sa.make_url(dsn).set(drivername="postgresql+psycopg"))


def _prepare_sqlite(connection: Any, record: Any) -> None:
    """Several processes share the file, and a run's steps go with it."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA foreign_keys=ON")


def _delete(connection: sa.Connection, run_ids: Sequence[str]) -> None:
    for table in (STEPS, TRACES, RUNS, STATES):
        for start in range(0, len(run_ids), 500):
            connection.execute(sa.delete(table).where(table.c.run_id.in_(run_ids[start : start + 500])))


def _state_row(run_id: str, state: Document) -> Document:
    return {
        "run_id": run_id,
        "pipeline_id": state.get("pipeline_id", ""),
        "status": state.get("status", "running"),
        "created_ms": _ms(state.get("created_at")),
        "updated_ms": _ms(state.get("updated_at")),
        "state": state,
    }


def _run_row(data: Document) -> Document:
    finished = data.get("finished_at")
    return {
        "run_id": data["run_id"],
        "pipeline_name": data.get("pipeline_name", "unnamed"),
        "pipeline_version": data.get("pipeline_version", "latest"),
        "status": data.get("status", "running"),
        "created_ms": _ms(data.get("created_at")),
        "finished_ms": None if finished is None else _ms(finished),
        "cost_nanousd": to_nano_usd(data.get("total_cost_usd") or 0.0),
        "tokens": data.get("total_tokens") or 0,
        "error": data.get("error"),
        "data": data,
    }


def _light(state: Document) -> Document:
    heavy = ("pipeline_context", "step_history", "metadata", "last_step_output")
    return {name: value for name, value in state.items() if name not in heavy}


def _ms(at: Any) -> int:
    """Milliseconds since the epoch of an ISO time; now, if there is none."""
    if at is None:
        return _now_ms()
    return round((at if isinstance(at, datetime) else datetime.fromisoformat(at)).timestamp() * 1000)


def _now_ms() -> int:
    return round(time.time() * 1000)
