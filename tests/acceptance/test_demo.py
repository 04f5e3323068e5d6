"""The main job, as a stranger runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flujo_client.cli.demo.ledger import Commit, Entry, billed_after_commit, committed_twice

ROOT = Path(__file__).parents[2]

KEYS = {
    "runs",
    "completed",
    "steps_committed",
    "attempts",
    "workers_killed",
    "steps_rerun",
    "committed_twice",
    "billed_after_commit",
    "tokens_granted",
    "tokens_spent",
    "tokens_unknown",
    "recovery_ms_max",
}


@pytest.mark.timeout(180)
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUJO_")}
    done = subprocess.run(
        [sys.executable, "-m", "flujo_client.cli", "demo", "--json", "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == KEYS
    assert figures["completed"] == figures["runs"] > 3
    assert figures["workers_killed"] >= 1
    assert figures["steps_rerun"] >= 1
    assert figures["attempts"] > figures["steps_committed"] == 6 * figures["runs"]
    assert figures["billed_after_commit"] == 0
    assert figures["committed_twice"] == 0
    assert figures["tokens_unknown"] > 0  # the lost attempts' reservations
    assert 0 < figures["tokens_spent"] <= figures["tokens_granted"] - figures["tokens_unknown"]
    assert 0 < figures["recovery_ms_max"] < 5_000, f"the slowest lost step started {figures['recovery_ms_max']} ms late"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in report
    assert json.loads((tmp_path / "out" / "report.json").read_text())["figures"] == figures


def _bill(nonce: str, at_ms: int) -> Entry:
    return Entry("bill", "r", "0", 1, nonce, 5, 1, at_ms)


def test_a_forged_double_bill_is_found() -> None:
    commits = [Commit("r", "0", "good", 100)]

    assert billed_after_commit([_bill("good", 90)], commits) == 0
    assert billed_after_commit([_bill("lost", 80), _bill("good", 90)], commits) == 0
    assert billed_after_commit([_bill("good", 90), _bill("forged", 101)], commits) == 1
    assert billed_after_commit([_bill("good", 90), _bill("good", 91)], commits) == 1


def test_a_second_commit_of_a_step_is_found() -> None:
    commits = [Commit("r", "0", "second", 200), Commit("r", "0", "first", 100), Commit("r", "1", "other", 100)]

    assert committed_twice(commits) == 1
    assert billed_after_commit([_bill("first", 90), _bill("second", 190)], commits) == 1
    assert committed_twice(commits[1:]) == 0
