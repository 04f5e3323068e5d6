"""Compares the engine with Celery's own canvas: the same work, the same Redis server, interleaved rounds, medians.

python benchmarks/run.py [--quick] [--only a,b,...] [--rounds N] [--canvas prefork,threads] [--events] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import platform
import random
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import workloads_flujo
from fleet import cpu_s
from sides import CANVAS_FLEETS, CanvasSide, FlujoSide, Side

from flujo_client import Flujo, Settings
from flujo_client.cli.redis_server import RedisServer

MEGABYTE = 2**20
STEPS = 10


@dataclass(frozen=True)
class Metric:
    """One line of the table: what is measured, and whether less of it is better."""

    case: str
    text: str
    less_is_better: bool = True


CHAIN = Metric("a", "chain of 10 no-op steps, one run at a time, ms/step")
RATE = Metric("b", "500 such runs at once, steps/s", less_is_better=False)
CPU = Metric("b", "the same, CPU-s per 1,000 steps, all processes")
FAN = Metric("c", "100 parallel branches and a join, ms")
SLEEPING = Metric("d", "200 runs x 3 steps that sleep 100 ms, 1 process, s")
TEXT = Metric("e", "chain of 5 steps passing 1 MB of text, ms")
NOISE = Metric("e", "chain of 5 steps passing 1 MB of base64, ms")
EMBEDDED = Metric("f", "in process, chain of 10, ms/step")

Figures = dict[Metric, float]


@dataclass(frozen=True)
class Sizes:
    """How much work a measurement is."""

    rounds: int
    chains_one_by_one: int
    chains_at_once: int
    fans: int
    sleepers: int
    megabytes: int
    embedded: int


FULL = Sizes(rounds=5, chains_one_by_one=40, chains_at_once=500, fans=10, sleepers=200, megabytes=10, embedded=30)
QUICK = Sizes(rounds=3, chains_one_by_one=20, chains_at_once=150, fans=4, sleepers=200, megabytes=4, embedded=10)


@dataclass(frozen=True)
class Bench:
    """What measurements share."""

    sizes: Sizes
    redis: psutil.Process
    text: str
    noise: str


def measure_chain(side: Side, bench: Bench) -> Figures:
    """Case a."""
    times = bench.sizes.chains_one_by_one
    return {CHAIN: side.one_by_one("chain", 0, times) / times / STEPS * 1000}


def measure_many_chains(side: Side, bench: Bench) -> Figures:
    """Case b. This process, which submits and (ours) manages, and Redis count as well as the workers."""
    others, runs = (psutil.Process(), bench.redis), bench.sizes.chains_at_once
    before = sum(map(cpu_s, others))
    took, used = side.at_once("chain", 0, runs)
    used += sum(map(cpu_s, others)) - before
    return {RATE: runs * STEPS / took, CPU: used / (runs * STEPS) * 1000}


def measure_fan(side: Side, bench: Bench) -> Figures:
    """Case c."""
    times = bench.sizes.fans
    return {FAN: side.one_by_one("fan", 0, times) / times * 1000}


def measure_sleeping(side: Side, bench: Bench) -> Figures:
    """Case d."""
    return {SLEEPING: side.at_once("sleeping", 0, bench.sizes.sleepers)[0]}


def measure_megabytes(side: Side, bench: Bench) -> Figures:
    """Case e."""
    times = bench.sizes.megabytes
    return {
        TEXT: side.one_by_one("megabyte", bench.text, times) / times * 1000,
        NOISE: side.one_by_one("megabyte", bench.noise, times) / times * 1000,
    }


def measure_embedded(sizes: Sizes) -> Figures:
    """Case f: no worker, no Redis; there is nothing of canvas to compare it with."""

    async def measure() -> float:
        async with Flujo(workloads_flujo.flujo_chain, settings=Settings()) as flujo:
            await flujo.run_async(0)
            began = time.perf_counter()
            for _ in range(sizes.embedded):
                await flujo.run_async(0)
            return time.perf_counter() - began

    return {EMBEDDED: asyncio.run(measure()) / sizes.embedded / STEPS * 1000}


#: Cases on a fleet: how to measure, and in how many worker processes.
ON_FLEETS: dict[str, tuple[Callable[[Side, Bench], Figures], int]] = {
    "a": (measure_chain, 2),
    "b": (measure_many_chains, 2),
    "c": (measure_fan, 2),
    "d": (measure_sleeping, 1),
    "e": (measure_megabytes, 2),
}

#: Canvas' settings that compete by default, by the number of worker processes.
CANDIDATES = {2: "prefork,threads,solo", 1: "threads-100"}


class Table:
    """Figures of every round, by metric and side."""

    def __init__(self) -> None:
        self._rounds: dict[Metric, dict[str, list[float]]] = {}

    def add(self, side: str, figures: Figures) -> None:
        """Keep what one side did in one round."""
        for metric, figure in figures.items():
            self._rounds.setdefault(metric, {}).setdefault(side, []).append(figure)

    def rows(self, case: str) -> Iterator[dict[str, Any]]:
        """A row per metric of a case: medians, and how many times as good as canvas' best setting ours is.

        The ratio is the median over the rounds, each of which compares neighbours in time.
        """
        for metric, sides in self._rounds.items():
            if metric.case == case:
                yield _row(metric, sides)


def _row(metric: Metric, sides: dict[str, list[float]]) -> dict[str, Any]:
    medians = {side: statistics.median(figures) for side, figures in sides.items()}
    row: dict[str, Any] = {"case": metric.case, "text": metric.text, "ours": medians.pop("ours"), "rounds": sides}
    if medians:
        choose = min if metric.less_is_better else max
        best = choose(medians, key=lambda side: medians[side])
        pairs = zip(sides["ours"], sides[best], strict=True)
        ratios = [peer / mine if metric.less_is_better else mine / peer for mine, peer in pairs]
        row |= {"canvas": medians[best], "setting": best, "ratio": statistics.median(ratios)}
        row |= {"ratio_least": min(ratios), "ratio_most": max(ratios), "others": medians}
    return row


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    line = f"{row['case']}  {row['text']:58} {row['ours']:9.2f}"
    if "canvas" in row:
        spread = f"{row['ratio_least']:.2f}-{row['ratio_most']:.2f}"
        line += f" {row['canvas']:9.2f} {row['setting']:12} {row['ratio']:5.2f}  {spread:11}"
    else:
        line += f" {'':9} {'':12} {'':5}  {'':11}"
    print(line, len(row["rounds"]["ours"]), flush=True)


def measure_on_fleets(
    cases: Sequence[str], workers: int, bench: Bench, server: RedisServer, options: argparse.Namespace, table: Table
) -> None:
    """Start every side's fleet once, then let the sides take turns; the first turn of a round goes round as well."""
    url = server.url.rpartition("/")[0]
    kinds = (options.canvas or CANDIDATES[workers]).split(",")
    sides: list[Side] = [FlujoSide(url, workers, events=options.events, folder=server.folder)]
    for number, kind in enumerate(kinds):
        sides.append(CanvasSide(url, kind, 2 * number + 1, events=options.events, folder=server.folder))
    with contextlib.ExitStack() as fleets:
        for side in sides:
            fleets.enter_context(side.running())
        for case in cases:
            for turn in range(options.rounds or bench.sizes.rounds):
                first = turn % len(sides)
                for side in (*sides[first:], *sides[:first]):
                    table.add(side.name, ON_FLEETS[case][0](side, bench))
            for row in table.rows(case):
                show(row)


def real_text() -> str:
    """1 MB of the sources of Python's own library."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)[:MEGABYTE]


def machine(server: RedisServer) -> str:
    """What the figures depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "kombu", "redis", "hiredis"))
    return f"{psutil.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}, {server.executable}"


def main() -> None:
    """Measure the cases that were asked for and print the table."""
    parser = argparse.ArgumentParser(description="Compares the engine with Celery's own canvas.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and runs")
    parser.add_argument("--only", default="a,b,c,d,e,f", help="cases, comma separated")
    parser.add_argument("--rounds", type=int, help="instead of 5, or 3 with --quick")
    parser.add_argument("--canvas", help=f"settings of canvas that compete, of {', '.join(CANVAS_FLEETS)}")
    parser.add_argument("--events", action="store_true", help="all workers send task events, as while Flower watches")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    options = parser.parse_args()
    sizes, cases, table = QUICK if options.quick else FULL, options.only.split(","), Table()
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        assert server.process is not None
        noise = base64.b64encode(random.Random(0).randbytes(MEGABYTE * 3 // 4)).decode()
        bench = Bench(sizes, psutil.Process(server.process.pid), real_text(), noise)
        print(machine(server), "| task events", "on" if options.events else "off", flush=True)
        print(f"{'':61} {'ours':>9} {'canvas':>9} {'its setting':12} ratio  least-most  rounds", flush=True)
        for workers in (2, 1):
            wanted = [case for case in cases if case in ON_FLEETS and ON_FLEETS[case][1] == workers]
            if wanted:
                measure_on_fleets(wanted, workers, bench, server, options, table)
    if "f" in cases:
        for _ in range(options.rounds or sizes.rounds):
            table.add("ours", measure_embedded(sizes))
        for row in table.rows("f"):
            show(row)
    if options.json:
        rows = [row for case in cases for row in table.rows(case)]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
