"""What many rounds of one fault showed, for people and for the results file."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.rounds import Outcome

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """The outcomes of one fault."""

    fault: str
    title: str
    outcomes: list[Outcome]

    @property
    def violations(self) -> list[str]:
        return [f"seed {outcome.seed}: {told}" for outcome in self.outcomes for told in outcome.violations]

    @property
    def recoveries_ms(self) -> list[int]:
        return sorted(ms for outcome in self.outcomes for ms in outcome.recoveries_ms)

    def figures(self) -> dict[str, Any]:
        """The report as one JSON object."""
        times = self.recoveries_ms
        return {
            "fault": self.fault,
            "title": self.title,
            "commit": _commit(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seeds": [outcome.seed for outcome in self.outcomes],
            "runs": sum(outcome.runs for outcome in self.outcomes),
            "kills": sum(outcome.kills for outcome in self.outcomes),
            "recoveries_ms": times,
            "recovery_ms": {"p50": _share(times, 0.5), "p99": _share(times, 0.99), "max": times[-1] if times else None},
            "load": max((outcome.load for outcome in self.outcomes), default=0.0),
            "took_s": round(sum(outcome.took_s for outcome in self.outcomes)),
            "violations": self.violations,
        }

    def markdown(self) -> str:
        """One row of a table, and the violations below it."""
        said = self.figures()
        times = said["recovery_ms"]
        row = (
            f"| {self.fault} | {self.title} | {len(said['seeds'])} | {said['runs']} | {said['kills']} "
            f"| {times['p50']} / {times['p99']} / {times['max']} | {len(said['violations'])} |"
        )
        return "\n".join([row, *(f"* {told}" for told in self.violations)])

    def append_to(self, path: Path) -> None:
        """Add a line to the results file."""
        with path.open("a") as results:
            results.write(json.dumps(self.figures()) + "\n")


def _share(ordered: list[int], share: float) -> int | None:
    """The value that so many of them do not exceed."""
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] if ordered else None


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
