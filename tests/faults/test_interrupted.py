"""A campaign that is interrupted leaves no process behind, and keeps what its finished seeds have shown."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_interrupted_campaign_ends_its_processes_and_keeps_its_finished_seeds(
    number: int, tmp_path: Path
) -> None:
    results, kept = tmp_path / "results.jsonl", tmp_path / "kept"
    words = ["-m", "tests.faults", "F1", "--seeds", "1000", "--results", str(results), "--keep", str(kept)]
    campaign = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        told = await _line_that(campaign, lambda line: line.startswith("F1 seed 0"))
        begun = _belonging_to(kept)
        campaign.send_signal(number)
        left, _ = await asyncio.wait_for(asyncio.to_thread(campaign.communicate), 60)
    finally:
        campaign.kill()

    (line,) = results.read_text().splitlines()
    assert json.loads(line)["seeds"][0] == 0, told
    assert "| F1 kill -9" in left.decode()
    assert campaign.returncode == 130
    assert begun
    assert not _belonging_to(kept)


async def _line_that(process: subprocess.Popen[bytes], fits: Callable[[str], bool]) -> str:
    assert process.stdout is not None
    seen = ""
    while line := (await asyncio.to_thread(process.stdout.readline)).decode():
        seen += line
        if fits(line):
            return line
    raise AssertionError(seen)


def _belonging_to(folder: Path) -> set[int]:
    """Processes whose ledger lies in a folder, and the redis-server that does."""
    found = set()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                facts = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if str(folder).encode() in facts:
                    found.add(int(entry.name))
    return found
