"""The supervisor: a child that dies is back within a second, and none outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from flujo_client.cli.supervisor import Child, Supervisor


async def _started(child: Child) -> int:
    while child.pid is None:
        await child.changed.wait()
    return child.pid


async def test_a_killed_child_is_back_within_a_second(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    child = Child("sleeper", [sys.executable, "-c", "import signal; signal.pause()"], dict(os.environ))
    supervisor.start(child)
    first = await asyncio.wait_for(_started(child), 20)

    began = time.monotonic()
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(child.changed.wait(), 20)

    assert child.pid != first
    assert time.monotonic() - began < 1
    second = await _started(child)
    await supervisor.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)
