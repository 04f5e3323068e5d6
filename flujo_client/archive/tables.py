"""The tables of the SQL archive. Money in nano-USD, times in ms since the epoch, documents as JSON.

A change here needs a revision in `migrations/versions`.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

__all__ = ["METADATA", "RUNS", "STATES", "STEPS", "SYSTEM", "TRACES"]

METADATA = MetaData()

#: One row per run.
RUNS = Table(
    "flujo_runs",
    METADATA,
    Column("run_id", String(128), primary_key=True),
    Column("pipeline_name", String(120), nullable=False),
    Column("pipeline_version", String(120), nullable=False),
    Column("status", String(20), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("finished_ms", BigInteger),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("error", Text),
    Column("data", JSON, nullable=False),
    Index("flujo_runs_by_pipeline", "pipeline_name", "created_ms"),
    Index("flujo_runs_by_status", "status", "created_ms"),
)

#: One row per step that ran, at any depth.
STEPS = Table(
    "flujo_steps",
    METADATA,
    Column("step_run_id", String(600), primary_key=True),
    Column("run_id", String(128), ForeignKey("flujo_runs.run_id", ondelete="CASCADE"), nullable=False, index=True),
    Column("step_index", Integer, nullable=False),
    Column("step_name", String(120), nullable=False, index=True),
    Column("status", String(20), nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("data", JSON, nullable=False),
)

#: The whole state of a run, from which it could go on.
STATES = Table(
    "flujo_states",
    METADATA,
    Column("run_id", String(128), primary_key=True),
    Column("pipeline_id", String(120), nullable=False),
    Column("status", String(20), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False, index=True),
    Column("state", JSON, nullable=False),
)

#: The trace tree of a run.
TRACES = Table(
    "flujo_traces",
    METADATA,
    Column("run_id", String(128), primary_key=True),
    Column("tree", JSON, nullable=False),
)

#: The application's own values.
SYSTEM = Table("flujo_system", METADATA, Column("key", String(200), primary_key=True), Column("value", JSON))
