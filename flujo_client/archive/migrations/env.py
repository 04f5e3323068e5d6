"""What Alembic runs to migrate: on the connection that `migrate` holds, in its transaction."""

from __future__ import annotations

from alembic import context

from flujo_client.archive.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table="flujo_schema"
)
with context.begin_transaction():
    context.run_migrations()
