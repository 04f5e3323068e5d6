"""Opens the state backend that a URI names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flujo_client.archive.backend import StateBackend
from flujo_client.archive.documents import FileBackend, InMemoryBackend
from flujo_client.extras import optional
from flujo_client.protocol.errors import SettingsError

__all__ = ["close_backend", "find_backend", "open_backend", "sql_backend"]


def open_backend(uri: str) -> StateBackend:
    """The backend of a URI such as FLUJO_STATE_URI.

    Args:
        uri: memory://, file:///folder, sqlite:///file.db (with four slashes from the root), or postgresql://...

    Raises:
        SettingsError: The URI is none of these.
        ConfigurationError: It needs the extra `sql`, which is not installed.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "memory":
        return InMemoryBackend()
    if scheme == "file" and rest:
        return FileBackend(rest)
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return sql_backend("SQLiteBackend")(rest[1:])
    if scheme in ("postgresql", "postgres"):
        return sql_backend("PostgresBackend")(f"postgresql://{rest}")
    raise SettingsError(
        f"FLUJO_STATE_URI '{scheme}://…' names no state backend.",
        suggestion="Use sqlite:///file.db, postgresql://…, file:///folder or memory://.",
    )


def find_backend(uri: str) -> StateBackend | None:
    """The backend of a URI, to read what it keeps; None where nobody has kept anything yet: a look makes no file and no folder.

    Raises:
        SettingsError, ConfigurationError: As `open_backend`.
    """
    scheme, _, rest = uri.partition("://")
    path = rest[1:] if scheme == "sqlite" else rest
    if scheme in ("sqlite", "file") and path and not Path(path).exists():
        return None
    return open_backend(uri)


async def close_backend(backend: StateBackend) -> None:
    """Let a backend close its connections, if it has any."""
    try:
        await backend.shutdown()
    except NotImplementedError:
        return


def sql_backend(name: str) -> Callable[[str], StateBackend]:
    """A class of `sql.py`. Without the extra `sql` it raises `ConfigurationError` when it is called."""
    found: Callable[[str], StateBackend] = optional("flujo_client.archive.sql", name, "sql")
    return found
