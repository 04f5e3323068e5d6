"""The demo's ledger: what its steps billed, in a file that Redis knows nothing of, and the reader that audits it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flujo_client.protocol.step_run import StepRun

__all__ = ["Commit", "Entry", "append_entry", "billed_after_commit", "committed_twice", "read_ledger"]

#: Variable that tells the steps where the ledger is.
LEDGER_VARIABLE = "DEMO_LEDGER"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: an attempt started, or billed."""

    kind: Literal["started", "bill"]
    run_id: str
    path: str
    attempt: int
    nonce: str
    tokens: int
    pid: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What a run's stream says of a committed step."""

    run_id: str
    path: str
    nonce: str
    at_ms: int


def append_entry(kind: Literal["started", "bill"], run: StepRun, tokens: int) -> None:
    """Append one line and wait until it is on disk."""
    line = {
        "kind": kind,
        "run_id": run.run_id,
        "path": run.path,
        "attempt": run.attempt,
        "nonce": run.nonce,
        "tokens": tokens,
        "pid": os.getpid(),
        "at_ms": round(time.time() * 1000),
    }
    handle = os.open(os.environ[LEDGER_VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def read_ledger(path: Path) -> list[Entry]:
    """Every complete line; a line that a killed process left unfinished is no entry."""
    if not path.exists():
        return []
    return [Entry(**json.loads(line)) for line in path.read_text().splitlines() if line.endswith("}")]


def committed_twice(commits: Iterable[Commit]) -> int:
    """How many commits came for steps that were committed already."""
    return sum(times - 1 for times in Counter((commit.run_id, commit.path) for commit in commits).values())


def billed_after_commit(entries: Iterable[Entry], commits: Iterable[Commit]) -> int:
    """How many bills came for steps that were committed already.

    A bill is one too many if its step was committed under another nonce before it, or if its own nonce was billed
    before: a committed attempt bills once. Of two commits of a step the first counts: what came after it was too much.
    """
    committed: dict[tuple[str, str], Commit] = {}
    for commit in sorted(commits, key=lambda commit: commit.at_ms):
        committed.setdefault((commit.run_id, commit.path), commit)
    seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    wrong = 0
    for entry in entries:
        if entry.kind != "bill":
            continue
        step = (entry.run_id, entry.path)
        first = committed.get(step)
        seen[step][entry.nonce] += 1
        late = first is not None and entry.nonce != first.nonce and entry.at_ms > first.at_ms
        if late or seen[step][entry.nonce] > 1:
            wrong += 1
    return wrong
