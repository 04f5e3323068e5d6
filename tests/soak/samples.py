"""What the soak looks at: keys, memory, connections and file handles of Redis and of every process."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["SLACKS", "Samples", "children_of", "sample_process", "sample_redis"]

MIB = 2**20

#: What each quantity may rise although it is flat, in its own unit (`flatness.py`).
#: A process of a pool opens its connections, up to 14, when it gets its first step, which may be late.
SLACKS = {"keys": 60, "redis bytes": MIB, "connections": 8, "files": 16, "sockets": 16, "resident bytes": 8 * MIB}


def sample_process(pid: int) -> dict[str, int] | None:
    """File handles, sockets among them, and resident memory of a process; None if it is gone."""
    try:
        handles = [os.readlink(f"/proc/{pid}/fd/{handle}") for handle in _handles(pid)]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    sockets = sum(handle.startswith("socket:") for handle in handles)
    return {"files": len(handles), "sockets": sockets, "resident bytes": pages * os.sysconf("SC_PAGESIZE")}


def _handles(pid: int) -> Iterator[str]:
    """Those that are open still when they are looked at."""
    for handle in os.listdir(f"/proc/{pid}/fd"):
        if os.path.lexists(f"/proc/{pid}/fd/{handle}"):
            yield handle


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are there still."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


async def sample_redis(client: Any, pid: int, ended: str) -> dict[str, int]:
    """Keys, memory, connections and other file handles of Redis; what this process has connected is not counted.

    Args:
        ended: The key that names each run for an hour after its end. It fills for an hour, so its memory is not counted.
    """
    info, mine, its = await client.info(), sample_process(os.getpid()), sample_process(pid)
    named = await client.memory_usage(ended, samples=0) or 0
    facts = {
        "keys": await client.dbsize(),
        "redis bytes": info["used_memory"] - named,
        "connections": info["connected_clients"] - (mine["sockets"] if mine else 0),
    }
    if its is not None:
        facts |= {"files": its["files"] - its["sockets"], "resident bytes": its["resident bytes"]}
    return facts


@dataclass
class Samples:
    """Every sample, in memory by series and in a file by moment.

    Args:
        path: Of the file, a line of JSON a moment.
    """

    path: Path
    series: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    began: float = field(default_factory=time.monotonic)

    def add(self, facts: Mapping[str, Mapping[str, int]]) -> None:
        """Note what was seen at this moment.

        Args:
            facts: By process ("redis", or role and pid), by quantity.
        """
        at = round(time.monotonic() - self.began, 1)
        for process, values in facts.items():
            for quantity, value in values.items():
                self.series[process, quantity].append((at, value))
        with self.path.open("a") as file:
            file.write(json.dumps({"at_s": at, **facts}) + "\n")
