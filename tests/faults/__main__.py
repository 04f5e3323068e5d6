"""`python -m tests.faults F7 --seeds 20`: one fault under many seeds on one fleet, and a report of what came of it."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.faults.arena import Arena
from tests.faults.catalogue import FAULTS, ON_RABBITMQ
from tests.faults.report import Report
from tests.faults.rounds import Inject, Outcome, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("fault", nargs="+", choices=[*ON_RABBITMQ, "all"])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--results", type=Path, help="append one JSON line per fault to this file")
    parser.add_argument("--rabbitmq", action="store_true", help="RabbitMQ of this machine carries the messages")
    parser.add_argument("--beside", action="store_true", help="messages lie in the database of the runs, as by default")
    parser.add_argument("--keep", type=Path, help="a new folder for logs, ledger and the stories of what failed")
    options = parser.parse_args()
    table = ON_RABBITMQ if options.rabbitmq else FAULTS
    names = list(table) if "all" in options.fault else options.fault
    failed = False
    with tempfile.TemporaryDirectory(prefix="flujo-faults-") as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        arena = Arena(kept.absolute(), on_rabbitmq=options.rabbitmq, beside=options.beside)
        try:
            for name in names:
                report = asyncio.run(_play_all(name, table[name], options.first, options.seeds, arena))
                print(report.markdown(), flush=True)
                if options.results:
                    report.append_to(options.results)
                failed |= bool(report.violations)
        finally:
            arena.stop()
    return int(failed)


async def _play_all(name: str, fault: tuple[str, Inject], first: int, seeds: int, arena: Arena) -> Report:
    title, inject = fault
    outcomes: list[Outcome] = []
    for seed in range(first, first + seeds):
        outcome = await play(name, inject, seed, arena)
        outcomes.append(outcome)
        print(
            f"{name} seed {seed}: {outcome.how} {outcome.took_s:.1f} s, {outcome.recoveries_ms} ms",
            *outcome.violations,
            sep="\n  ",
        )
    return Report(name, title, outcomes, arena.broker.kind)


if __name__ == "__main__":
    sys.exit(main())
