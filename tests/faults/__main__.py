"""`python -m tests.faults F7 --seeds 20`: one fault under many seeds on one fleet, and a report of what came of it.

SIGTERM and SIGINT end it in order: its processes end, and what the seeds that were over have shown is reported and kept.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.faults.arena import Arena
from tests.faults.brokers import BROKERS
from tests.faults.catalogue import ON_RABBITMQ, faults_on
from tests.faults.report import Report
from tests.faults.rounds import Inject, Outcome, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("fault", nargs="+", choices=[*ON_RABBITMQ, "all"])
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--results", type=Path, help="append one JSON line per fault to this file")
    broker = parser.add_mutually_exclusive_group()
    for kind, carrier in BROKERS.items():
        broker.add_argument(f"--{kind}", dest="broker", action="store_const", const=kind, help=carrier.__doc__)
    parser.set_defaults(broker="beside")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for logs, ledger and the stories of what failed or was slow"
    )
    options = parser.parse_args()
    table = faults_on(options.broker)
    names = list(table) if "all" in options.fault else options.fault
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="flujo-faults-") as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        arena = Arena(kept.absolute(), options.broker)
        try:
            failed = [_report(name, table[name], options, arena) for name in names]
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            arena.stop()
    return int(any(failed))


def _report(name: str, fault: tuple[str, Inject], options: argparse.Namespace, arena: Arena) -> bool:
    """Play a fault's seeds and tell what came of them, also if they are interrupted; whether anything was violated."""
    title, inject = fault
    outcomes: list[Outcome] = []
    seeds = range(options.first, options.first + options.seeds)
    try:
        if asyncio.run(_play_all(name, inject, seeds, arena, outcomes)):
            raise KeyboardInterrupt
    finally:
        report = Report(name, title, outcomes, arena.broker.kind)
        if outcomes:
            print(report.markdown(), flush=True)
        if outcomes and options.results:
            report.append_to(options.results)
    return bool(report.violations)


async def _play_all(name: str, inject: Inject, seeds: range, arena: Arena, outcomes: list[Outcome]) -> bool:
    """Play them one after the other; `outcomes` gets what each showed once it is over. Whether a signal has ended it."""
    over, playing = asyncio.Event(), asyncio.current_task()
    assert playing is not None

    def interrupt() -> None:
        over.set()
        playing.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    with suppress(asyncio.CancelledError):
        for seed in seeds:
            outcome = await play(name, inject, seed, arena)
            if over.is_set():  # redis-py may swallow the cancellation
                break
            outcomes.append(outcome)
            print(
                f"{name} seed {seed}: {outcome.how} {outcome.took_s:.1f} s, {outcome.recoveries_ms} ms",
                *outcome.violations,
                sep="\n  ",
                flush=True,
            )
    return over.is_set()


if __name__ == "__main__":
    sys.exit(main())
