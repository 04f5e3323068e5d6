"""The ledger: what steps say they did, in a file outside Redis, one fsynced line each (`workload.note` writes it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Ledger"]


class Ledger:
    """Reads the lines that were written since it was opened, each once.

    Args:
        path: Of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self._entries: list[dict[str, Any]] = []

    def entries(self) -> list[dict[str, Any]]:
        """Every complete line so far, in the order of the file."""
        self._entries += self.take()
        return self._entries

    def take(self) -> list[dict[str, Any]]:
        """The complete lines since the last look; they are not kept."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        return [json.loads(line) for line in lines]
