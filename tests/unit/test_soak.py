"""The soak's judgement: what counts as flat, and what its report says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.soak.flatness import judge_flatness
from tests.soak.report import Findings, judge_series, plot, write_report
from tests.soak.samples import sample_process


def _line(*, begin: float, end: float, samples: int = 60) -> list[tuple[float, float]]:
    return [(float(at), begin + (end - begin) * at / (samples - 1)) for at in range(samples)]


def _findings(*violations: str) -> Findings:
    return Findings("abc", 1.0, 0, 4.0, 1.0, 10, {"completed": 10}, 2, [2500, 2600], list(violations), (1.0, 2.0))


@pytest.mark.parametrize(
    ("points", "slack", "flat"),
    [
        (_line(begin=1000, end=1000), 0, True),
        (_line(begin=1000, end=1140), 0, True),  # 93 over the last two thirds
        (_line(begin=1000, end=1200), 0, False),
        (_line(begin=10, end=15), 4, True),
        (_line(begin=10, end=20), 4, False),
        (_line(begin=1000, end=100), 0, True),
        (_line(begin=0, end=1000, samples=20) + [(20.0 + at, 1000.0) for at in range(40)], 0, True),
    ],
    ids=["constant", "a tenth", "more", "within the slack", "past the slack", "falling", "filled, then constant"],
)
def test_flat_is_a_tenth_of_the_mean_or_the_slack(
    points: list[tuple[float, float]], slack: float, *, flat: bool
) -> None:
    verdict = judge_flatness(points, slack)

    assert verdict is not None
    assert verdict.is_flat is flat


def test_a_few_samples_are_no_verdict() -> None:
    assert judge_flatness(_line(begin=1, end=100, samples=8), 0) is None
    assert judge_flatness([], 0) is None


def test_a_process_that_lived_shortly_is_not_judged() -> None:
    series = {("redis", "keys"): _line(begin=5, end=5), ("worker 7", "files"): _line(begin=1, end=100, samples=15)}

    assert set(judge_series(series)) == {("redis", "keys")}


@pytest.mark.parametrize(
    ("violations", "end", "passed"), [((), 1000, True), ((), 2000, False), (("I2 twice",), 1000, False)]
)
def test_the_report_passes_if_nothing_grew_and_nothing_was_violated(
    tmp_path: Path, violations: tuple[str, ...], end: float, *, passed: bool
) -> None:
    assert write_report(tmp_path, _findings(*violations), {("redis", "keys"): _line(begin=1000, end=end)}) is passed

    report = (tmp_path / "report.md").read_text()
    assert ("# Soak: passed" in report) is passed
    assert all(told in report for told in violations)
    assert "<polyline" in (tmp_path / "keys.svg").read_text()


def test_a_plot_has_a_line_for_each_process_and_a_name_for_each_role() -> None:
    drawn = plot("files", {"worker 1": _line(begin=1, end=2), "worker 2": _line(begin=1, end=2), "redis": [(0.0, 0.0)]})

    assert drawn.count("<polyline") == 3
    assert drawn.count(">worker</text>") == 1


def test_a_process_is_read_from_proc_and_a_gone_one_is_none() -> None:
    seen = sample_process(os.getpid())

    assert seen is not None
    assert seen["files"] >= 3
    assert seen["resident bytes"] > 2**20
    assert sample_process(2**22) is None
