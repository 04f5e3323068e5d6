"""Alembic's revisions of the SQL archive."""
