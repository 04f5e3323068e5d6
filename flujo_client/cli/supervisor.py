"""Keeps child processes running: one that dies is started again within a second; all end with this one.

Honcho ends every process when one ends, and circus brings a daemon, sockets and a control protocol; what `flujo up` needs
is the loop below.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Child", "Supervisor"]

logger = logging.getLogger(__name__)

_RESTART_DELAY_S = 0.2
_CALM_S = 5.0
_MOST_DELAY_S = 1.0
_STOP_TIMEOUT_S = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Child:
    """A process to keep running.

    Attributes:
        name: Names it in messages and its log file.
        command: Its command line.
        environment: Its variables.
        pid: Of the process that runs now; None between two.
        starts: How often it was started.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    pid: int | None = None
    starts: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs children until it is stopped.

    Args:
        log_folder: Gets one log file a child.
    """

    def __init__(self, log_folder: Path) -> None:
        self._log_folder = log_folder
        self._keepers: list[asyncio.Task[None]] = []
        self.children: list[Child] = []

    def start(self, child: Child) -> None:
        """Start a child and keep it running."""
        self.children.append(child)
        self._keepers.append(asyncio.create_task(self._keep(child)))

    async def _keep(self, child: Child) -> None:
        self._log_folder.mkdir(parents=True, exist_ok=True)
        delay_s = _RESTART_DELAY_S
        while True:
            began = time.monotonic()
            code = await self._run_once(child)
            logger.warning("%s ended with %s, starting it again", child.name, code)
            delay_s = _RESTART_DELAY_S if time.monotonic() - began > _CALM_S else min(delay_s * 2, _MOST_DELAY_S)
            await asyncio.sleep(delay_s)

    async def _run_once(self, child: Child) -> int:
        with (self._log_folder / f"{child.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *child.command,
                env=dict(child.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
            )
        child.pid, child.starts = process.pid, child.starts + 1
        child.changed.set()
        child.changed.clear()
        try:
            return await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            child.pid = None

    async def stop(self) -> None:
        """End every child, kindly first, the last started first."""
        for keeper in reversed(self._keepers):
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _die_with_parent() -> Callable[[], None]:
    """Linux: the kernel kills the child if this process is killed: a worker that ends kindly would stay for its grace."""
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return before_exec
