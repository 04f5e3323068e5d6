"""What many rounds of one fault showed: a line of the results file, and the table that is derived from all of its lines.

`python -m tests.faults.report docs/reliability.jsonl docs/reliability.md` writes the table between its marks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.rounds import Outcome

__all__ = ["MARKS", "Report", "commit_id", "share", "table"]

#: What the table stands between in the document.
MARKS = "<!-- derived from reliability.jsonl -->\n", "<!-- end -->\n"


@dataclass(frozen=True)
class Report:
    """The outcomes of one fault.

    Args:
        broker: What carried the messages.
    """

    fault: str
    title: str
    outcomes: list[Outcome]
    broker: str = "redis"

    @property
    def violations(self) -> list[str]:
        return [f"seed {outcome.seed}: {told}" for outcome in self.outcomes for told in outcome.violations]

    @property
    def recoveries_ms(self) -> list[int]:
        return sorted(ms for outcome in self.outcomes for ms in outcome.recoveries_ms)

    def figures(self) -> dict[str, Any]:
        """The report as one JSON object."""
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
            "recoveries_ms": self.recoveries_ms,
            "load": max((outcome.load for outcome in self.outcomes), default=0.0),
            "took_s": round(sum(outcome.took_s for outcome in self.outcomes)),
            "violations": self.violations,
        }

    def markdown(self) -> str:
        """Its row of the table, and the violations below it."""
        return "\n".join([*_rows([self.figures()]), *(f"* {told}" for told in self.violations)])

    def append_to(self, path: Path) -> None:
        """Add a line to the results file."""
        with path.open("a") as results:
            results.write(json.dumps(self.figures()) + "\n")


def table(lines: Iterable[str]) -> str:
    """The table of everything that ran, from the lines of a results file: a row per fault and broker, all commits together."""
    told = [json.loads(line) for line in lines if line.strip()]
    head = "| fault | broker | seeds | runs | kills | recovery ms, p50 / p99 / max (of how many) | load | violations | commits |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|---|", *_rows(told)]) + "\n"


def _rows(told: Sequence[dict[str, Any]]) -> list[str]:
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in told:
        groups.setdefault((int(line["fault"].removeprefix("F")), line["broker"]), []).append(line)
    return [_row(groups[key]) for key in sorted(groups)]


def _row(lines: Sequence[dict[str, Any]]) -> str:
    times = sorted(ms for line in lines for ms in line["recoveries_ms"])
    recovery = f"{share(times, 0.5)} / {share(times, 0.99)} / {times[-1]} ({len(times)})" if times else "-"
    loads = [line["load"] for line in lines]
    commits = list(dict.fromkeys(line["commit"] for line in lines))
    cells = [
        f"{lines[0]['fault']} {lines[-1]['title']}",
        lines[0]["broker"],
        *(str(sum(len(line[name]) if name == "seeds" else line[name] for line in lines)) for name in _SUMS),
        recovery,
        f"{min(loads)} to {max(loads)}",
        str(sum(len(line["violations"]) for line in lines)),
        ", ".join(commits),
    ]
    return f"| {' | '.join(cells)} |"


_SUMS = ("seeds", "runs", "kills")


def share(ordered: list[int], part: float) -> int:
    """The value that so many of them do not exceed."""
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


def commit_id() -> str:
    """What is checked out, and whether it was changed since."""
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def write_table(results: Path, document: Path) -> None:
    """Put the table of a results file between the marks of a document."""
    before, _, rest = document.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    document.write_text(before + MARKS[0] + table(results.read_text().splitlines()) + MARKS[1] + after)


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), Path(sys.argv[2]))
