"""Failpoints, with a death that is told instead of died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flujo_client.protocol import failpoints
from flujo_client.protocol.failpoints import Failpoint, failpoint

PASS_TWICE = """
from flujo_client.protocol.failpoints import failpoint
failpoint("before", "commit")
print("once", flush=True)
failpoint("before", "commit")
print("twice", flush=True)
"""


@pytest.mark.parametrize(("text", "passes"), [("after:commit", 1), ("after:commit#3", 3)])
def test_it_dies_at_the_named_place_at_the_named_time(text: str, passes: int) -> None:
    deaths: list[int] = []
    point = Failpoint(text, lambda: deaths.append(len(passed)))
    passed: list[str] = []

    for place in ("before:commit", "after:commit", "after:commit", "after:commit", "after:commit"):
        passed.append(place)
        point.passed(place)

    assert deaths == [passes + 1]


def test_a_trace_names_each_place_once(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    point = Failpoint(f"trace:{trace}", lambda: None)

    for place in ("before:reserve", "after:reserve", "before:reserve"):
        point.passed(place)

    assert trace.read_text().splitlines() == ["before:reserve", "after:reserve"]


def test_a_place_is_its_moment_and_its_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    failpoint("before", "commit")  # nothing happens where none is named
    deaths: list[str] = []
    monkeypatch.setattr(failpoints, "_ARMED", Failpoint("before:commit", lambda: deaths.append("died")))

    failpoint("after", "commit")
    failpoint("before", "commit")

    assert deaths == ["died"]


def test_a_process_with_the_variable_dies_and_flushes_nothing() -> None:
    environment = {**os.environ, "FLUJO_FAILPOINT": "before:commit#2"}

    done = subprocess.run(
        [sys.executable, "-c", PASS_TWICE], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == -signal.SIGKILL
    assert done.stdout == "once\n"
