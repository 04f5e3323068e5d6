"""`Fleet`: worker processes of one side, started for a benchmark, with the CPU time that they use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["Fleet"]

HERE = Path(__file__).parent


class Fleet:
    """Worker processes of one side; `with` starts and ends them.

    Args:
        commands: One per process to start, each the words after `python -m`.
        environment: Variables of the workers, beside those of this process that are not FLUJO_*.
        log: What the workers print is appended to this file.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str], log: Path) -> None:
        self._commands = commands
        own = {name: value for name, value in os.environ.items() if not name.startswith("FLUJO_")}
        paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = own | {"PYTHONPATH": os.pathsep.join(paths)} | dict(environment)
        self._log = log
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Fleet:
        with self._log.open("ab") as log:
            for command in self._commands:
                words = [sys.executable, "-m", *command]
                self.processes.append(subprocess.Popen(words, env=self._environment, cwd=HERE, stdout=log, stderr=log))
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []

    def cpu_s(self) -> float:
        """CPU of the workers and of their children so far, in seconds.

        Raises:
            psutil.NoSuchProcess: A worker has died.
        """
        roots = [psutil.Process(process.pid) for process in self.processes]
        everyone = [*roots, *(child for root in roots for child in root.children(recursive=True))]
        return sum(cpu_s(process) for process in everyone)


def cpu_s(process: psutil.Process) -> float:
    """User and system time of one process so far, in seconds."""
    times = process.cpu_times()
    return float(times.user + times.system)
