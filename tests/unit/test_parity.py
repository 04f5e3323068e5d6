"""The parity table: every sentence has a test that exists, or is counted as a gap."""

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


def test_every_section_of_the_api_is_there() -> None:
    assert list(SECTIONS) == [f"1.{number}" for number in range(2, 15)]
    assert len(ROWS) > 140
    assert len({(row[0], row[1]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1][:60]}")
def test_a_sentence_is_held_by_tests_that_exist(row: tuple[str, ...]) -> None:
    _, sentence, *cells = row

    assert sentence
    assert len(cells) == 2
    assert cells != ["-", "-"], "something has to hold it"
    for cell in cells:
        if cell not in ("-", "**gap**"):
            named = re.fullmatch(r"`(test_\w+)::(test_\w+)`", cell)
            assert named, cell
            files = [TESTS / folder / f"{named[1]}.py" for folder in ("unit", "integration", "lua")]
            assert any(f"def {named[2]}(" in file.read_text() for file in files if file.exists()), cell


def test_the_gaps_are_counted() -> None:
    gaps = sum("**gap**" in row for row in ROWS)

    assert f"Open gaps: {gaps}." in PAGE
