"""The parity table: every sentence has tests that exist, in process and on workers, or is counted as a gap."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "parity.md").read_text()
SECTIONS = dict(re.findall(r"^## (1\.\d+) [^\n]*\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROWS = [
    (section, *(cell.strip() for cell in line.strip("|").split("|")))
    for section, table in SECTIONS.items()
    for line in table.splitlines()[2:]
    if line.startswith("|")
]

#: About one side alone; the page says why.
ONE_SIDED = {"Spans of OpenTelemetry, one connected trace a run"}


def test_every_section_of_the_api_is_there() -> None:
    assert list(SECTIONS) == [f"1.{number}" for number in range(2, 15)]
    assert len(ROWS) > 140
    assert len({(row[0], row[1]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:60]}")
def test_a_sentence_is_held_by_tests_that_exist(row: tuple[str, ...]) -> None:
    _, sentence, *cells = row

    assert sentence
    assert len(cells) == 2
    assert sum(cell.startswith("none: ") for cell in cells) == (sentence in ONE_SIDED)
    for cell in cells:
        if cell != "**gap**" and not cell.startswith("none: "):
            named = re.fullmatch(r"`(test_\w+)::(test_\w+)`", cell)
            assert named, cell
            files = [TESTS / folder / f"{named[1]}.py" for folder in ("unit", "integration", "lua")]
            assert any(f"def {named[2]}(" in file.read_text() for file in files if file.exists()), cell
    if not cells[1].startswith(("none: ", "**gap**")):
        assert (TESTS / "integration" / f"{cells[1][1:].partition('::')[0]}.py").exists(), "only a fleet has workers"


def test_what_is_one_sided_is_in_the_table() -> None:
    assert {row[1] for row in ROWS} >= ONE_SIDED


def test_the_gaps_are_counted() -> None:
    gaps = sum("**gap**" in row for row in ROWS)

    assert f"Open gaps: {gaps}." in PAGE
