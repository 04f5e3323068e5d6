"""The results file and what the document says of it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.catalogue import ON_RABBITMQ
from tests.faults.report import MARKS, Report, table, write_table
from tests.faults.rounds import Outcome

DOCS = Path(__file__).parents[2] / "docs"


def _line(fault: str, *times: int, violations: tuple[str, ...] = ()) -> str:
    outcome = Outcome(
        seed=3, runs=2, violations=list(violations), recoveries_ms=list(times), kills=1, took_s=1.5, load=2.0
    )
    return json.dumps(Report(fault, "a fault", [outcome]).figures())


def test_lines_of_one_fault_are_one_row() -> None:
    rows = table([_line("F10", 10, 30), _line("F2"), _line("F10", 20, violations=("I1 lost",))]).splitlines()[2:]

    assert [row.split(" | ")[0] for row in rows] == ["| F2 a fault", "| F10 a fault"]
    assert rows[1].split(" | ")[1:8] == ["redis", "2", "4", "2", "20 / 30 / 30 (3)", "2.0 to 2.0", "1"]


def test_the_document_holds_the_table_of_the_results_file(tmp_path: Path) -> None:
    copy = tmp_path / "reliability.md"
    copy.write_text((DOCS / "reliability.md").read_text())

    write_table(DOCS / "reliability.jsonl", copy)

    assert copy.read_text() == (DOCS / "reliability.md").read_text()
    assert MARKS[0] in copy.read_text()


def test_every_line_names_a_fault_that_there_is_and_its_commit() -> None:
    for line in (DOCS / "reliability.jsonl").read_text().splitlines():
        told = json.loads(line)
        assert told["fault"] in ON_RABBITMQ
        assert told["commit"] not in ("", "unknown")
        assert told["seeds"]
