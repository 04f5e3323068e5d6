"""`InMemoryBackend` and `FileBackend`: one document per run, in a dict or in a folder."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flujo_client.archive.backend import Document, StateBackend, same_state
from flujo_client.archive.locking import lock_file
from flujo_client.protocol.payloads import json_bytes

__all__ = ["FileBackend", "InMemoryBackend"]

#: Statuses of workflows that have not ended.
_OPEN = ("running", "paused")


class _DocumentBackend(StateBackend):
    """A document per run: its state, its trace, its record and its steps. One lock, as a change reads and then writes."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @abstractmethod
    async def _read(self, name: str) -> Document:
        """The document of a run, as a copy; {} if there is none."""

    @abstractmethod
    async def _write(self, name: str, document: Document) -> None:
        """Keep a document."""

    @abstractmethod
    async def _remove(self, name: str) -> None:
        """Forget a document."""

    @abstractmethod
    async def _all(self) -> list[Document]:
        """Every run's document."""

    async def _replace(self, name: str, part: str, value: Any) -> None:
        async with self._lock:
            await self._write(name, {**await self._read(name), part: value})

    async def _add(self, name: str, part: str, values: Document) -> None:
        async with self._lock:
            document = await self._read(name)
            await self._write(name, {**document, part: {**document.get(part, {}), **values}})

    async def save_state(self, run_id: str, state: Document) -> None:
        """See `StateBackend`."""
        await self._replace(run_id, "state", state)

    async def swap_state(self, run_id: str, expected: Document, state: Document) -> bool:
        """See `StateBackend`."""
        async with self._lock:
            document = await self._read(run_id)
            if not same_state(document.get("state"), expected):
                return False
            await self._write(run_id, {**document, "state": state})
            return True

    async def load_state(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return (await self._read(run_id)).get("state")

    async def delete_state(self, run_id: str) -> None:
        """See `StateBackend`."""
        async with self._lock:
            await self._remove(run_id)

    async def get_trace(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return (await self._read(run_id)).get("trace")

    async def save_trace(self, run_id: str, trace: Document) -> None:
        """See `StateBackend`."""
        await self._replace(run_id, "trace", trace)

    async def save_run_start(self, run_data: Document) -> None:
        """See `StateBackend`."""
        await self._add(run_data["run_id"], "run", run_data)

    async def save_step_result(self, step_data: Document) -> None:
        """See `StateBackend`."""
        await self._add(step_data["run_id"], "steps", {step_data["step_run_id"]: step_data})

    async def save_run_end(self, run_id: str, end_data: Document) -> None:
        """See `StateBackend`."""
        await self._add(run_id, "run", {"run_id": run_id, **end_data})

    async def get_run_details(self, run_id: str) -> Document | None:
        """See `StateBackend`."""
        return (await self._read(run_id)).get("run")

    async def list_runs(
        self, status: str | None = None, pipeline_name: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """See `StateBackend`."""
        runs = [document["run"] for document in await self._all() if "run" in document]
        return _page(runs, {"status": status, "pipeline_name": pipeline_name}, limit, offset)

    async def list_run_steps(self, run_id: str) -> list[Document]:
        """See `StateBackend`."""
        steps = (await self._read(run_id)).get("steps", {}).values()
        return sorted(steps, key=lambda step: step.get("step_index", 0))

    async def list_workflows(
        self, status: str | None = None, pipeline_id: str | None = None, limit: int = 50, offset: int = 0
    ) -> list[Document]:
        """See `StateBackend`."""
        return _page(await self._workflows(), {"status": status, "pipeline_id": pipeline_id}, limit, offset)

    async def get_workflow_stats(self) -> Document:
        """See `StateBackend`."""
        counts: dict[str, int] = {}
        for state in await self._workflows():
            counts[state["status"]] = counts.get(state["status"], 0) + 1
        return {"total_workflows": sum(counts.values()), "status_counts": counts}

    async def get_failed_workflows(self, hours_back: int = 24) -> list[Document]:
        """See `StateBackend`."""
        since = datetime.now(UTC) - timedelta(hours=hours_back)
        failed = [state for state in await self._workflows() if _at(state) >= since]
        return _page(failed, {"status": "failed"}, len(failed), 0)

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """See `StateBackend`."""
        before = datetime.now(UTC) - timedelta(days=days_old)
        old = [state for state in await self._workflows() if state["status"] not in _OPEN and _at(state) < before]
        for state in old:
            await self.delete_state(state["run_id"])
        return len(old)

    async def _workflows(self) -> list[Document]:
        states = [document["state"] for document in await self._all() if "state" in document]
        heavy = ("pipeline_context", "step_history", "metadata", "last_step_output")
        return [{name: value for name, value in state.items() if name not in heavy} for state in states]

    async def get_system_state(self, key: str) -> Document | None:
        """See `StateBackend`."""
        return (await self._read(_SYSTEM)).get(key)

    async def set_system_state(self, key: str, value: Any) -> None:
        """See `StateBackend`."""
        await self._replace(_SYSTEM, key, {"key": key, "value": value})


#: The document of the application's own values; no run id begins so.
_SYSTEM = "_system"


class InMemoryBackend(_DocumentBackend):
    """Keeps states for the life of the process. For tests."""

    def __init__(self) -> None:
        super().__init__()
        self._documents: dict[str, Document] = {}

    async def _read(self, name: str) -> Document:
        return copy.deepcopy(self._documents.get(name, {}))

    async def _write(self, name: str, document: Document) -> None:
        self._documents[name] = copy.deepcopy(document)

    async def _remove(self, name: str) -> None:
        self._documents.pop(name, None)

    async def _all(self) -> list[Document]:
        return copy.deepcopy([document for name, document in self._documents.items() if name != _SYSTEM])


class FileBackend(_DocumentBackend):
    """Keeps a JSON file per run in a folder. A file is replaced whole, so a crash leaves the one before.

    Args:
        path: The folder; made if it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._folder = Path(path)
        self._folder.mkdir(parents=True, exist_ok=True)

    def _file(self, name: str) -> Path:
        """Names may hold what file names may not."""
        return self._folder / (re.sub(r"[^A-Za-z0-9._-]", lambda found: f"%{ord(found[0]):02x}", name) + ".json")

    async def _read(self, name: str) -> Document:
        return await asyncio.to_thread(_load, self._file(name))

    async def _write(self, name: str, document: Document) -> None:
        await asyncio.to_thread(_store, self._file(name), document)

    async def _remove(self, name: str) -> None:
        await asyncio.to_thread(self._file(name).unlink, missing_ok=True)

    async def swap_state(self, run_id: str, expected: Document, state: Document) -> bool:
        """See `StateBackend`. A lock file in the folder keeps out the swaps of other processes."""
        async with self._lock:
            return await asyncio.to_thread(_swap, self._file(run_id), expected, state)

    async def _all(self) -> list[Document]:
        files = [file for file in self._folder.glob("*.json") if file != self._file(_SYSTEM)]
        return [document for document in await asyncio.to_thread(_load_all, files) if document]


def _load(file: Path) -> Document:
    try:
        document: Document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return document


def _load_all(files: Iterable[Path]) -> list[Document]:
    return [_load(file) for file in files]


def _store(file: Path, document: Document) -> None:
    draft = file.with_suffix(f".{os.getpid()}.new")
    with draft.open("wb") as handle:
        handle.write(json_bytes(document))
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(file)


def _swap(file: Path, expected: Document, state: Document) -> bool:
    with (file.parent / ".swap").open("wb") as lock:
        lock_file(lock)
        document = _load(file)
        if not same_state(document.get("state"), expected):
            return False
        _store(file, {**document, "state": state})
        return True


def _page(documents: list[Document], wanted: dict[str, Any], limit: int, offset: int) -> list[Document]:
    found = [one for one in documents if all(value is None or one.get(name) == value for name, value in wanted.items())]
    found.sort(key=lambda one: str(one.get("created_at", "")), reverse=True)
    return found[offset : offset + limit]


def _at(state: Document) -> datetime:
    return datetime.fromisoformat(state["updated_at"])
