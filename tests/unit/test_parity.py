"""The parity table: every sentence has its number, and tests that run in process and on workers, or is counted as a gap."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "parity.md").read_text()
SECTIONS = dict(re.findall(r"^## (1\.\d+) [^\n]*\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
ROWS = [
    (section, *(cell.strip() for cell in line.strip("|").split(" | ")))
    for section, table in SECTIONS.items()
    for line in table.splitlines()[2:]
    if line.startswith("|")
]
MODES = ("in process", "on workers")

#: The claims that the notes on the single-process library make in each section, as its decisions on what is kept and what is
#: better change them, counted by reading them sentence by sentence: one that is dropped here must be missed there.
COUNTS = {
    "1.2": 87,
    "1.3": 17,
    "1.4": 111,
    "1.5": 36,
    "1.6": 12,
    "1.7": 46,
    "1.8": 26,
    "1.9": 14,
    "1.10": 28,
    "1.11": 18,
    "1.12": 7,
    "1.13": 15,
    "1.14": 12,
}

#: About one side alone; the page says why.
ONE_SIDED = {
    "Spans of OpenTelemetry, one connected trace a run",
    "Metrics",
    "TaskClient keeps values of the application's own",
}

#: Fixtures that make real processes.
_FLEETS = {"make_fleet", "make_own_fleet"}

_Function = ast.FunctionDef | ast.AsyncFunctionDef

_CELL = re.compile(r"`(test_\w+::test_\w+)(?:\[(\w+)\])?`")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path) -> Iterator[tuple[_Function, Sequence[ast.expr]]]:
    """The functions that pytest would look at, with the decorators of their class."""
    for node in _tree(path).body:
        if isinstance(node, _Function):
            yield node, ()
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from ((inner, node.decorator_list) for inner in node.body if isinstance(inner, _Function))


@cache
def _fixtures(path: Path) -> Mapping[str, tuple[frozenset[str], bool]]:
    """The fixtures that a file's tests may ask for: what each asks for, and whether it has both modes as its parameters."""
    found: dict[str, tuple[frozenset[str], bool]] = {}
    for file in (path.parent / "conftest.py", path):
        for node, _ in _functions(file) if file.exists() else ():
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if any(mark.startswith("pytest.fixture") for mark in marks):
                both = any("params=['in process', 'on a fleet']" in mark for mark in marks)
                found[node.name] = frozenset(argument.arg for argument in node.args.args), both
    return found


def _where(path: Path, test: _Function) -> set[str]:
    """The modes that a test runs in: that of the fixtures it asks for, however indirectly."""
    fixtures, asked = _fixtures(path), [argument.arg for argument in (*test.args.args, *test.args.kwonlyargs)]
    seen: set[str] = set()
    while asked:
        name = asked.pop()
        needs, both = fixtures.get(name, (frozenset(), False))
        if both:
            return set(MODES)
        if name in _FLEETS:
            return {"on workers"}
        asked += needs - seen
        seen |= needs
    return {"in process"}


def _runs(name: str, case: str | None) -> set[str]:
    """The modes in which pytest runs a test, of which a case may be named; empty if it would not, or might skip it."""
    file, _, called = name.partition("::")
    found: set[str] = set()
    for path in (TESTS / folder / f"{file}.py" for folder in ("unit", "integration", "lua")):
        for node, outer in _functions(path) if path.exists() else ():
            marks = " ".join(ast.unparse(mark) for mark in (*node.decorator_list, *outer))
            if node.name != called or re.search(r"\b(skip|skipif|xfail)\b", marks):
                continue
            words = {word.value for word in ast.walk(_tree(path)) if isinstance(word, ast.Constant)}
            if case is None or case in words:
                found |= _where(path, node)
    return found


def test_no_section_has_lost_a_sentence() -> None:
    assert {section: sum(row[0] == section for row in ROWS) for section in SECTIONS} == COUNTS


def test_numbers_run_on_without_holes() -> None:
    for section, count in COUNTS.items():
        numbers = [row[1] for row in ROWS if row[0] == section]
        assert numbers == [f"{section}.{place:02}" for place in range(1, count + 1)]


def test_no_sentence_stands_there_twice() -> None:
    assert len({(row[0], row[2]) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[1]} {row[2][:60]}")
def test_a_sentence_is_held_by_tests_that_run(row: tuple[str, ...]) -> None:
    _, _, sentence, *cells = row

    assert sentence
    assert len(cells) == 2
    assert sum(cell.startswith("none: ") for cell in cells) == (sentence in ONE_SIDED)
    for mode, cell in zip(MODES, cells, strict=True):
        if cell != "**gap**" and not cell.startswith("none: "):
            named = _CELL.fullmatch(cell)
            assert named, cell
            assert mode in _runs(named[1], named[2]), f"{cell} does not run {mode}"


def test_what_is_one_sided_is_in_the_table() -> None:
    assert {row[2] for row in ROWS} >= ONE_SIDED


def test_the_gaps_are_counted() -> None:
    gaps = sum("**gap**" in row for row in ROWS)

    assert f"Open gaps: {gaps}." in PAGE
