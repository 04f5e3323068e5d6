"""The results file and what the document says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.faults.catalogue import ON_RABBITMQ
from tests.faults.failpoints import places
from tests.faults.report import TABLES, Report, recovery_table, sweep_table, table, write_tables
from tests.faults.rounds import Outcome

DOCS = Path(__file__).parents[2] / "docs"


def _outcome(*times: int, violations: tuple[str, ...] = (), unmanaged: bool = False) -> Outcome:
    return Outcome(
        seed=3,
        runs=2,
        violations=list(violations),
        recoveries_ms=list(times),
        kills=1,
        took_s=1.5,
        load=2.0,
        unmanaged=unmanaged,
    )


def _line(fault: str, *times: int, violations: tuple[str, ...] = (), broker: str = "beside") -> str:
    return json.dumps(Report(fault, "a fault", [_outcome(*times, violations=violations)], broker).figures())


def test_lines_of_one_fault_are_one_row() -> None:
    rows = table([_line("F10", 10, 30), _line("F2"), _line("F10", 20, violations=("I1 lost",))]).splitlines()[2:]

    assert [row.split(" | ")[0] for row in rows] == ["| F2 a fault", "| F10 a fault"]
    assert rows[1].split(" | ")[1:9] == ["beside", "2", "4", "2", "20 / 30 / 30 (3)", "-", "2.0 to 2.0", "1"]


def test_recoveries_without_a_manager_stand_apart() -> None:
    outcomes = [_outcome(10), _outcome(9000, unmanaged=True), _outcome()]
    line = json.dumps(Report("F3", "a fault", outcomes).figures())

    assert table([line]).splitlines()[2].split(" | ")[4:7] == ["3", "10 / 10 / 10 (1)", "9000 / 9000 / 9000 (1)"]
    assert (
        recovery_table([line]).splitlines()[2] == "| one of two managers (F3) | beside | 1 | 1 | 10 / 10 / 10 (1) | 0 |"
    )


def test_lines_of_before_are_read_as_those_of_now() -> None:
    old = {"broker": "redis", "recoveries_ms": [30, 6000], "kills": 5, "how": ["1 of 2", "2 of 2", "1 of 2"]}
    rest = {"title": "a fault", "seeds": [1, 2, 3], "runs": 3, "load": 1.0, "violations": [], "commit": "c"}
    lines = [json.dumps(old | rest | {"fault": fault}) for fault in ("F3", "F20")]

    rows = table(lines).splitlines()[2:]

    assert [row.split(" | ")[5:7] for row in rows] == [["30 / 6000 / 6000 (2)", "-"], ["-", "30 / 6000 / 6000 (2)"]]
    assert rows[0].split(" | ")[1] == "apart"
    told = recovery_table(lines).splitlines()[2:]
    assert told[0] == "| one of two managers (F3) | apart | 2 | 2 | 30 / 6000 / 6000 (2) | 1 |"


def test_a_round_of_the_sweep_counts_by_what_died_where_with_which_kind() -> None:
    first, second = places()[0], places()[1]
    hows = [" ".join(first).replace(f" {first[2]}", f"#3 {first[2]}"), " ".join(second), "worker after:nothing relay"]
    outcomes = [
        replace(_outcome(), seed=seed, how=how, violations=["I1 lost"] if seed == 7 else [])
        for seed, how in zip((900, 7, 8), hows, strict=True)
    ]
    lines = [json.dumps(Report("F4", "a fault", outcomes).figures())]

    *_, total = sweep_table(lines).splitlines()

    assert total == f"| all | {len(places())} | 1 | 1 | 1 | {len(places()) - 2} |"
    again = json.dumps(Report("F4", "a fault", [replace(outcomes[1], violations=[])]).figures())
    assert (
        sweep_table([*lines, again]).splitlines()[-1] == f"| all | {len(places())} | 2 | 2 | 0 | {len(places()) - 2} |"
    )


def test_all_that_was_killed_is_summed() -> None:
    lines = [_line("F1", 20), _line("F1", 40, broker="apart"), _line("F3", 60), _line("F7", 99)]

    rows = recovery_table(lines).splitlines()[2:]

    assert rows[-1] == "| either | all | 3 | 3 | 40 / 60 / 60 (3) | 0 |"


def test_the_document_holds_the_tables_of_the_results_file(tmp_path: Path) -> None:
    copy = tmp_path / "reliability.md"
    copy.write_text((DOCS / "reliability.md").read_text())

    write_tables(DOCS / "reliability.jsonl", copy)

    assert copy.read_text() == (DOCS / "reliability.md").read_text()
    assert all(mark in copy.read_text() for mark in TABLES)


def test_every_line_names_a_fault_that_there_is_and_its_commit() -> None:
    for line in (DOCS / "reliability.jsonl").read_text().splitlines():
        told = json.loads(line)
        assert told["fault"] in ON_RABBITMQ
        assert told["commit"] not in ("", "unknown")
        assert told["seeds"]
