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


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal at a parent's death")
async def test_a_killed_supervisor_takes_children_with_it_that_would_not_end(tmp_path: Path) -> None:
    child = "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); signal.pause()"
    parent = f"""
import asyncio, os, sys
from pathlib import Path
from flujo_client.cli.supervisor import Child, Supervisor

async def main():
    supervisor = Supervisor(Path({str(tmp_path)!r}))
    supervisor.start(Child("stubborn", [sys.executable, "-c", {child!r}], dict(os.environ)))
    await asyncio.Event().wait()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", parent)
    log = tmp_path / "stubborn.log"
    async with asyncio.timeout(30):
        while not (log.exists() and log.read_text().endswith("\n")):
            await asyncio.sleep(0.02)
    pid = int(log.read_text())

    process.kill()
    await process.wait()

    async with asyncio.timeout(2):
        while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            await asyncio.sleep(0.02)
