"""The report of a soak: a verdict, a table of what is flat, and plots, as Markdown and SVG."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.report import share
from tests.soak.flatness import Flatness, judge_flatness
from tests.soak.samples import SLACKS

__all__ = ["Findings", "judge_series", "plot", "write_report"]

Series = Mapping[tuple[str, str], Sequence[tuple[float, float]]]

#: A process is judged if it lived for this share of the soak: one that was killed early shows only how it began.
LIVED_SHARE = 0.3

WIDTH, HEIGHT, LEFT, TOP = 860, 220, 80, 28
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")


@dataclass(frozen=True)
class Findings:
    """What a soak saw.

    Attributes:
        violations: Of the oracle.
        recoveries_ms: From each kill to the next start of each step that it interrupted.
        load: How many processes of the machine wanted a processor: lowest and highest.
    """

    commit: str
    hours: float
    seed: int
    rate: float
    kills_percent: float
    runs: int
    ended: dict[str, int]
    kills: int
    recoveries_ms: list[int]
    violations: list[str]
    load: tuple[float, float]


def judge_series(series: Series) -> dict[tuple[str, str], Flatness]:
    """The verdict on each series that is long enough."""
    whole = max((points[-1][0] for points in series.values() if points), default=0.0)
    verdicts = {}
    for (process, quantity), points in sorted(series.items()):
        if points[-1][0] - points[0][0] < whole * LIVED_SHARE:
            continue
        verdict = judge_flatness(points, SLACKS[quantity])
        if verdict is not None:
            verdicts[process, quantity] = verdict
    return verdicts


def write_report(folder: Path, findings: Findings, series: Series) -> bool:
    """Write `report.md`, `findings.json` and one SVG a quantity; whether nothing grew and nothing was violated."""
    verdicts = judge_series(series)
    growing = [name for name, verdict in verdicts.items() if not verdict.is_flat]
    passed = not growing and not findings.violations
    for quantity in SLACKS:
        lines = {process: points for (process, of), points in series.items() if of == quantity}
        if lines:
            (folder / f"{_file(quantity)}.svg").write_text(plot(quantity, lines))
    (folder / "report.md").write_text(_markdown(findings, verdicts, passed))
    (folder / "findings.json").write_text(json.dumps(asdict(findings)) + "\n")
    return passed


def _markdown(findings: Findings, verdicts: Mapping[tuple[str, str], Flatness], passed: bool) -> str:
    times = sorted(findings.recoveries_ms)
    recovery = f"{share(times, 0.5)} / {share(times, 0.99)} / {times[-1]} ms of {len(times)}" if times else "-"
    ended = ", ".join(f"{count} {status}" for status, count in sorted(findings.ended.items()))
    lines = [
        f"# Soak: {'passed' if passed else 'FAILED'}",
        "",
        f"Commit {findings.commit}, {findings.hours:g} h, seed {findings.seed}, {findings.rate:g} runs/s, "
        f"{findings.kills_percent:g} % of the processes killed a minute, load of the machine "
        f"{findings.load[0]:.1f} to {findings.load[1]:.1f}.",
        "",
        f"* Runs: {findings.runs} ({ended})",
        f"* Kills: {findings.kills}; from a kill to the step's next start, p50 / p99 / max: {recovery}",
        f"* Violations: {len(findings.violations)}",
        *(f"  * {told}" for told in findings.violations[:50]),
        "",
        "Flat: over the last two thirds the line through the samples (least squares) rises by a tenth of the mean at most, or by "
        "the slack of its quantity.",
        "",
        "| process | quantity | mean | rise | allowed | |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {process} | {quantity} | {verdict.mean:,.0f} | {verdict.rise:+,.0f} | {verdict.allowed:,.0f} | "
        f"{'flat' if verdict.is_flat else 'GROWS'} |"
        for (process, quantity), verdict in verdicts.items()
    ]
    lines += ["", *(f"![{quantity}]({_file(quantity)}.svg)" for quantity in SLACKS)]
    return "\n".join(lines) + "\n"


def plot(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """One drawing: a line for each process, one colour for each role."""
    right = max(points[-1][0] for points in lines.values()) or 1.0
    top = max(value for points in lines.values() for _, value in points) or 1.0
    colours: dict[str, str] = defaultdict(lambda: COLOURS[len(colours) % len(COLOURS)])
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 20}" height="{TOP + HEIGHT + 40}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">{title}</text>',
        f'<path d="M{LEFT} {TOP}V{TOP + HEIGHT}H{LEFT + WIDTH}" fill="none" stroke="#888"/>',
        f'<text x="{LEFT - 6}" y="{TOP + 10}" text-anchor="end">{top:,.0f}</text>',
        f'<text x="{LEFT - 6}" y="{TOP + HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{TOP + HEIGHT + 16}" text-anchor="end">{right / 60:.0f} min</text>',
    ]
    for process, points in lines.items():
        spots = " ".join(
            f"{LEFT + at / right * WIDTH:.1f},{TOP + HEIGHT * (1 - value / top):.1f}" for at, value in points
        )
        colour = colours[process.partition(" ")[0]]
        drawn.append(f'<polyline points="{spots}" fill="none" stroke="{colour}"><title>{process}</title></polyline>')
    drawn += [
        f'<text x="{LEFT + 110 * number}" y="{TOP + HEIGHT + 32}" fill="{colour}">{role}</text>'
        for number, (role, colour) in enumerate(colours.items())
    ]
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _file(quantity: str) -> str:
    return quantity.replace(" ", "-")
