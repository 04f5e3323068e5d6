"""The first tables: runs, steps, states, traces and the application's own values."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

__all__ = ["downgrade", "upgrade"]

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "flujo_runs",
        sa.Column("run_id", sa.String(128), primary_key=True),
        sa.Column("pipeline_name", sa.String(120), nullable=False),
        sa.Column("pipeline_version", sa.String(120), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("finished_ms", sa.BigInteger),
        sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("flujo_runs_by_pipeline", "flujo_runs", ["pipeline_name", "created_ms"])
    op.create_index("flujo_runs_by_status", "flujo_runs", ["status", "created_ms"])
    _create_steps()
    op.create_table(
        "flujo_states",
        sa.Column("run_id", sa.String(128), primary_key=True),
        sa.Column("pipeline_id", sa.String(120), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("state", sa.JSON, nullable=False),
    )
    op.create_index("ix_flujo_states_updated_ms", "flujo_states", ["updated_ms"])
    op.create_table(
        "flujo_traces",
        sa.Column("run_id", sa.String(128), primary_key=True),
        sa.Column("tree", sa.JSON, nullable=False),
    )
    op.create_table("flujo_system", sa.Column("key", sa.String(200), primary_key=True), sa.Column("value", sa.JSON))


def _create_steps() -> None:
    op.create_table(
        "flujo_steps",
        sa.Column("step_run_id", sa.String(600), primary_key=True),
        sa.Column("run_id", sa.String(128), sa.ForeignKey("flujo_runs.run_id", ondelete="CASCADE"), nullable=False),
        sa.Column("step_index", sa.Integer, nullable=False),
        sa.Column("step_name", sa.String(120), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("latency_ms", sa.BigInteger, nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_index("ix_flujo_steps_run_id", "flujo_steps", ["run_id"])
    op.create_index("ix_flujo_steps_step_name", "flujo_steps", ["step_name"])


def downgrade() -> None:
    """Drop the tables, with all that they hold."""
    for table in ("flujo_system", "flujo_traces", "flujo_states", "flujo_steps", "flujo_runs"):
        op.drop_table(table)
