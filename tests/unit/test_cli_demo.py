"""What the demo makes of its documents and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flujo_client.cli.demo.documents import MOST_WORDS, describe_documents, find_documents
from flujo_client.cli.demo.figures import broken_promises, describe_figures
from flujo_client.protocol.errors import ConfigurationError

KEPT: dict[str, Any] = {
    "runs": 7,
    "completed": 7,
    "steps_committed": 42,
    "attempts": 44,
    "workers_killed": 1,
    "steps_rerun": 2,
    "committed_twice": 0,
    "billed_after_commit": 0,
    "tokens_granted": 210_000,
    "tokens_spent": 18_052,
    "tokens_unknown": 5_000,
    "recovery_ms_max": 2_900,
}


def test_a_folder_that_is_not_there_and_one_without_documents_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"There is no folder {tmp_path / 'none'}"):
        find_documents(tmp_path / "none")
    with pytest.raises(ConfigurationError, match=f"There is no document of 50 words or more in {tmp_path}"):
        find_documents(tmp_path)


def test_what_is_not_read_is_said() -> None:
    short, long = ("short", "word " * 60), ("long", "word " * (MOST_WORDS + 1))

    assert describe_documents([short, short], 2) == "2 documents"
    assert describe_documents([short, long], 70) == "2 of 70 documents, the first 2,500 words of the longest 1"


def test_what_lost_attempts_hold_is_not_left() -> None:
    budget, calm = (dict(describe_figures(figures))["budget"] for figures in (KEPT, KEPT | {"tokens_unknown": 0}))

    assert budget.startswith("210000 tokens granted, 18052 spent, 5000 unknown")
    assert budget.endswith(", 186948 left")
    assert calm == "210000 tokens granted, 18052 spent, 191948 left"


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, []),
        ({"completed": 6}, ["a run did not complete"]),
        ({"workers_killed": 0}, ["no worker was killed"]),
        ({"attempts": 42}, ["no step ran again"]),
        ({"committed_twice": 1}, ["a step was committed twice"]),
        ({"billed_after_commit": 1}, ["a committed step was billed again"]),
        ({"tokens_unknown": 200_000}, ["a budget was exceeded"]),
        ({"recovery_ms_max": -1}, ["a killed worker's step did not run again"]),
    ],
)
def test_each_promise_is_checked(change: dict[str, Any], broken: list[str]) -> None:
    assert broken_promises(KEPT | change) == broken
