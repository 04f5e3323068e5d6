"""`Stack`: one on a folder at a time."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from flujo_client.cli.redis_server import RedisServer, find_redis_server, find_wheel_redis_server
from flujo_client.cli.stack import Stack
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.settings import Settings


async def test_a_folder_that_another_stack_uses_is_refused_with_its_process_and_url(tmp_path: Path) -> None:
    first, second = (Stack(tmp_path, Settings(), "examples.digest", workers=1, flower=False) for _ in range(2))
    (tmp_path / "redis").mkdir()
    first._take_folder()

    with pytest.raises(ConfigurationError, match=f"process {os.getpid()}, FLUJO_URL={first.url}"):
        await second.start()

    await second.stop()
    await first.stop()
    second._take_folder()
    await second.stop()


def test_a_folder_keeps_its_ports_while_they_are_free(tmp_path: Path) -> None:
    def made() -> Stack:
        return Stack(tmp_path, Settings(), "examples.digest", workers=1)

    first = made()
    (tmp_path / "redis").mkdir()
    first._take_folder()

    without = Stack(tmp_path, Settings(), "examples.digest", workers=1, flower=False)
    if first._lock is not None:
        first._lock.close()
    without._take_folder()
    if without._lock is not None:
        without._lock.close()

    again = made()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(first.url.rpartition(":")[2].partition("/")[0])))
        taken.listen()
        other = made()
    (tmp_path / "ports.json").write_text("no JSON")
    fresh = made()

    assert (again.url, again.flower_url) == (first.url, first.flower_url)
    assert other.url != first.url
    assert fresh.url != first.url


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on PATH beside the wheel's")
def test_data_that_this_redis_server_would_not_see_are_refused_with_its_version(tmp_path: Path) -> None:
    newer, older = find_redis_server(), find_wheel_redis_server()
    if older is None or "v=6." in _version(newer) or "v=6." not in _version(older):
        pytest.skip("needs a redis-server from 7 on and one before it")
    with RedisServer(tmp_path, executable=newer):
        pass

    with pytest.raises(ConfigurationError, match=rf"data of Redis 7 or newer, and {older} is version 6\."):
        RedisServer(tmp_path, executable=older).start()
    with RedisServer(tmp_path, executable=newer) as server:
        assert server.answers()


def _version(executable: Path) -> str:
    return subprocess.run([str(executable), "--version"], capture_output=True, text=True, check=True).stdout
