"""What many rounds of one fault showed: a line of the results file, and the tables that are derived from all of its lines.

`python -m tests.faults.report docs/reliability.jsonl docs/reliability.md` writes the tables between their marks.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.failpoints import places
from tests.faults.rounds import SLOW_MS, Outcome

__all__ = ["TABLES", "Report", "commit_id", "recovery_table", "share", "sweep_table", "table", "write_tables"]

Line = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The outcomes of one fault.

    Args:
        broker: What carried the messages.
    """

    fault: str
    title: str
    outcomes: list[Outcome]
    broker: str = "beside"

    @property
    def violations(self) -> list[str]:
        return [f"seed {outcome.seed}: {told}" for outcome in self.outcomes for told in outcome.violations]

    def figures(self) -> Line:
        """The report as one JSON object. Recoveries during which no manager lived for a while stand apart."""
        managed = [outcome for outcome in self.outcomes if not outcome.unmanaged]
        return {
            "fault": self.fault,
            "title": self.title,
            "broker": self.broker,
            "commit": commit_id(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seeds": [outcome.seed for outcome in self.outcomes],
            "how": [outcome.how for outcome in self.outcomes],
            "runs": sum(outcome.runs for outcome in self.outcomes),
            "kills": sum(outcome.kills for outcome in self.outcomes),
            "timed_kills": sum(outcome.kills for outcome in managed if outcome.recoveries_ms),
            "recoveries_ms": _times(managed),
            "unmanaged_ms": _times(outcome for outcome in self.outcomes if outcome.unmanaged),
            "silence_ms": max((outcome.silence_ms for outcome in self.outcomes), default=0),
            "load": max((outcome.load for outcome in self.outcomes), default=0.0),
            "took_s": round(sum(outcome.took_s for outcome in self.outcomes)),
            "violations": self.violations,
        }

    def markdown(self) -> str:
        """Its row of the table, and the violations below it."""
        return "\n".join([*_rows([_read(self.figures())]), *(f"* {told}" for told in self.violations)])

    def append_to(self, path: Path) -> None:
        """Add a line to the results file."""
        with path.open("a") as results:
            results.write(json.dumps(self.figures()) + "\n")


def _times(outcomes: Iterable[Outcome]) -> list[int]:
    return sorted(ms for outcome in outcomes for ms in outcome.recoveries_ms)


#: Faults whose lines of before `unmanaged_ms` are recoveries while both managers were dead, some or all of them.
_UNMANAGED = ("F4", "F20")


def _read(line: Line) -> Line:
    """A line as it would be written now."""
    if "unmanaged_ms" not in line:
        killed = line.get("how", []).count("1 of 2") if line["fault"] == "F3" else line["kills"]
        unmanaged = line["fault"] in _UNMANAGED
        times = line["recoveries_ms"]
        line |= {"unmanaged_ms": times if unmanaged else [], "recoveries_ms": [] if unmanaged else times}
        line |= {"timed_kills": killed if times and not unmanaged else 0}
    return line | {"broker": {"redis": "apart"}.get(line["broker"], line["broker"])}


def _lines(lines: Iterable[str]) -> list[Line]:
    return [_read(json.loads(line)) for line in lines if line.strip()]


def table(lines: Iterable[str]) -> str:
    """The table of everything that ran, from the lines of a results file: a row per fault and broker, all commits together."""
    head = (
        "| fault | broker | seeds | runs | kills | recovery ms, p50 / p99 / max (of how many) | the same without a manager "
        "| load | violations | commits |"
    )
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|---|", *_rows(_lines(lines))]) + "\n"


def _rows(told: Sequence[Line]) -> list[str]:
    groups: dict[tuple[int, str], list[Line]] = {}
    for line in told:
        groups.setdefault((int(line["fault"].removeprefix("F")), line["broker"]), []).append(line)
    return [_row(groups[key]) for key in sorted(groups)]


def _row(lines: Sequence[Line]) -> str:
    loads = [line["load"] for line in lines]
    commits = list(dict.fromkeys(line["commit"] for line in lines))
    cells = [
        f"{lines[0]['fault']} {lines[-1]['title']}",
        lines[0]["broker"],
        *(str(sum(len(line[name]) if name == "seeds" else line[name] for line in lines)) for name in _SUMS),
        _shares(_all(lines, "recoveries_ms")),
        _shares(_all(lines, "unmanaged_ms")),
        f"{min(loads)} to {max(loads)}",
        str(sum(len(line["violations"]) for line in lines)),
        ", ".join(commits),
    ]
    return f"| {' | '.join(cells)} |"


_SUMS = ("seeds", "runs", "kills")


def _all(lines: Iterable[Line], name: str) -> list[int]:
    return sorted(ms for line in lines for ms in line[name])


def _shares(times: list[int]) -> str:
    return f"{share(times, 0.5)} / {share(times, 0.99)} / {times[-1]} ({len(times)})" if times else "-"


#: What was killed, in the words of the document, and by which faults.
_KILLED: dict[str, tuple[str, ...]] = {
    "a worker, or a process of its pool (F1, F2, F13)": ("F1", "F2", "F13"),
    "one of two managers (F3)": ("F3",),
    "either": ("F1", "F2", "F3", "F13"),
}


def recovery_table(lines: Iterable[str]) -> str:
    """How soon the steps of the killed ran elsewhere while a manager lived, and how many kills stand behind that."""
    head = "| killed by SIGKILL | messages | kills | recoveries | ms, p50 / p99 / max (of how many) | above 5 s |"
    return "\n".join([head, "|---|---|---|---|---|---|", *_killed(_lines(lines))]) + "\n"


def _killed(told: Sequence[Line]) -> Iterator[str]:
    brokers = sorted({line["broker"] for line in told}, key=["beside", "apart", "rabbitmq"].index)
    for words, faults in _KILLED.items():
        for broker in [*brokers, "all"]:
            lines = [line for line in told if line["fault"] in faults and broker in (line["broker"], "all")]
            times = _all(lines, "recoveries_ms")
            if times:
                slow = sum(ms > SLOW_MS for ms in times)
                kills = sum(line["timed_kills"] for line in lines)
                yield f"| {words} | {broker} | {kills} | {len(times)} | {_shares(times)} | {slow} |"


def sweep_table(lines: Iterable[str]) -> str:
    """Which rounds of F4 have run, whoever dies, of all that there are; by what died where with which kind, since seeds change their meaning."""
    outcomes = [each for line in _lines(lines) if line["fault"] == "F4" for each in _sweeps(line)]
    known: dict[str, list[str]] = {}
    for role, place, kind in places():
        known.setdefault(role, []).append(f"{role} {place} {kind}")
    rows = [_sweep_row(role, known[role], outcomes) for role in known]
    total = _sweep_row("all", [one for each in known.values() for one in each], outcomes)
    head = "| who dies (F4) | rounds | last passed, messages beside the runs | last passed, either way | last failed | not run yet |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows, total]) + "\n"


def _sweeps(line: Line) -> Iterator[tuple[str, str, bool]]:
    """Each round of a line: which it was, what carried its messages, and whether it passed."""
    for seed, how in zip(line["seeds"], line.get("how", ()), strict=False):
        failed = any(told.startswith(f"seed {seed}: ") for told in line["violations"])
        yield re.sub(r"#\d+ ", " ", how), line["broker"], not failed


def _sweep_row(role: str, rounds: Sequence[str], outcomes: Sequence[tuple[str, str, bool]]) -> str:
    last = {one: passed for one, _, passed in outcomes}
    last_beside = {one: passed for one, broker, passed in outcomes if broker == "beside"}
    beside = sum(last_beside.get(one, False) for one in rounds)
    ran = [last[one] for one in rounds if one in last]
    return f"| {role} | {len(rounds)} | {beside} | {sum(ran)} | {len(ran) - sum(ran)} | {len(rounds) - len(ran)} |"


def share(ordered: list[int], part: float) -> int:
    """The value that so many of them do not exceed."""
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def commit_id() -> str:
    """What is checked out, and whether it was changed since."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


#: The tables, by what they stand under in the document; each ends with `END`.
TABLES: dict[str, Callable[[Iterable[str]], str]] = {
    "<!-- recoveries, derived from reliability.jsonl -->\n": recovery_table,
    "<!-- sweep, derived from reliability.jsonl -->\n": sweep_table,
    "<!-- derived from reliability.jsonl -->\n": table,
}

END = "<!-- end -->\n"


def write_tables(results: Path, document: Path) -> None:
    """Put the tables of a results file between the marks of a document."""
    text = document.read_text()
    for mark, make in TABLES.items():
        before, _, rest = text.partition(mark)
        _, _, after = rest.partition(END)
        text = before + mark + make(results.read_text().splitlines()) + END + after
    document.write_text(text)


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]), Path(sys.argv[2]))
