"""Records what this release stores: `python -m tests.releases.record` writes tests/releases/VERSION.json, once a release.

A fleet of real processes runs each pipeline of `pipelines.py` until it has ended, waits for an answer, or is held in a step;
then it is killed, and the keys of its namespace are written down as they are.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import redis

from flujo_client import AsyncFlujoClient, RunStatus, UsageLimits
from flujo_client.cli.redis_server import RedisServer
from tests.integration.conftest import TIMEOUT_S, Fleet

__all__ = ["MODULE", "load", "recordings"]

#: The pipelines' module, for workers.
MODULE = "tests.releases.pipelines"

#: What is recorded, all with a budget of so many tokens.
BUDGET_TOKENS = 100
PIPELINES = ("finished", "running", "budget", "looping", "paused")

_READ = {
    "hash": ("HGETALL", ()),
    "zset": ("ZRANGE", (0, -1, "WITHSCORES")),
    "set": ("SMEMBERS", ()),
    "list": ("LRANGE", (0, -1)),
}

Row = dict[str, Any]


def recordings() -> list[Path]:
    """One file of each release."""
    return sorted(Path(__file__).parent.glob("*.json"))


def dump(client: Any) -> dict[str, Row]:
    """Every key of the namespace: its type, its content as flat text (bytes as latin-1), and how long it lives."""
    rows = {}
    for raw in sorted(client.scan_iter(match="{flujo:*")):
        kind = client.type(raw).decode()
        if kind == "stream":
            entries = client.execute_command("XRANGE", raw, "-", "+")
            content: Any = [[entry.decode(), _texts(_flat(fields))] for entry, fields in entries]
        elif kind == "string":
            content = _texts([client.get(raw)])
        else:
            command, words = _READ[kind]
            content = _texts(_flat(client.execute_command(command, raw, *words)))
        rows[raw.decode()] = {"type": kind, "content": content, "pttl": client.pttl(raw)}
    return rows


def load(client: Any, rows: dict[str, Row]) -> None:
    """Store what was recorded, as it was."""
    for key, row in rows.items():
        content, write = row["content"], client.execute_command
        if row["type"] == "stream":
            for entry, fields in content:
                write("XADD", key, entry, *_bytes(fields))
        elif row["type"] == "zset":
            members = _bytes(content)
            write("ZADD", key, *(word for pair in zip(members[1::2], members[::2], strict=True) for word in pair))
        else:
            write({"hash": "HSET", "set": "SADD", "list": "RPUSH", "string": "SET"}[row["type"]], key, *_bytes(content))
        if row["pttl"] > 0:
            write("PEXPIRE", key, row["pttl"])


def _flat(reply: Any) -> list[Any]:
    if isinstance(reply, dict):
        return [word for pair in reply.items() for word in pair]
    return [word for each in reply for word in (each if isinstance(each, list | tuple) else [each])]


def _texts(words: list[Any]) -> list[str]:
    return [word.decode("latin-1") if isinstance(word, bytes) else f"{word:.17g}" for word in words]


def _bytes(texts: list[str]) -> list[bytes]:
    return [text.encode("latin-1") for text in texts]


async def _play(fleet: Fleet) -> None:
    """Bring every run to where it is recorded."""
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        for name in PIPELINES:
            await fleet.published(client, f"release-{name}")
            limits = UsageLimits(total_tokens_limit=BUDGET_TOKENS)
            await client.submit(f"release-{name}", 1, run_id=name, usage_limits=limits)
        await client.run("finished").result(TIMEOUT_S)
        await fleet.started("running", "1")
        await fleet.started("budget", "1.1.0")
        await fleet.until(lambda: fleet.entries(run_id="looping", kind="started"), "the loop is held")

        async def asks() -> bool:
            return await client.run("paused").status() is RunStatus.PAUSED

        await fleet.until(asks, "a question is asked")


def main() -> None:
    """Write the file of this release."""
    target = Path(__file__).with_name(f"{metadata.version('flujo-distributed')}.json")
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        fleet = Fleet(Path(folder), server, {"FLUJO_PIPELINES": MODULE})
        try:
            fleet.manager()
            fleet.worker()
            asyncio.run(_play(fleet))
            with redis.Redis.from_url(server.url) as client:
                rows = dump(client)
        finally:
            fleet.stop()
    target.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    sys.stderr.write(f"{len(rows)} keys in {target}\n")


if __name__ == "__main__":
    main()
