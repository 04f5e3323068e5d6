"""`python -m tests.soak --hours 24`: load on real processes while some of them are killed; then whether anything grew (F22)."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.keys import PERMANENT
from tests.faults.arena import Arena
from tests.faults.ledger import Ledger
from tests.faults.oracle import left_over
from tests.faults.report import commit_id
from tests.faults.workload import now_ms
from tests.soak.load import Load
from tests.soak.report import Findings, write_report
from tests.soak.samples import Samples, children_of, sample_process, sample_redis

#: How long a run stays after its end: short, so that the number of keys settles within a soak of minutes.
RETENTION_S = 60

#: A soak takes so many samples, but none more often than every two seconds.
SAMPLES = 600

#: Children of a worker that was killed end by themselves within this time.
ORPHAN_TIMEOUT_S = 30.0


@dataclass
class Soak:
    """One soak on one arena.

    Args:
        options: Of the command line.
    """

    arena: Arena
    client: AsyncFlujoClient
    options: argparse.Namespace
    samples: Samples
    loads: list[float] = field(default_factory=list)
    kills: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(f"soak {self.options.seed}")
        self.load = Load(self.client, Ledger(self.arena.ledger), self.options.rate, self.chance)
        self.over = asyncio.Event()
        self.orphans: dict[int, float] = {}

    async def run(self) -> Findings:
        """Load, kills and samples side by side; then what is left."""
        async with asyncio.TaskGroup() as parts:
            killing, looking = parts.create_task(self._kill()), parts.create_task(self._look())
            await self.load.submit_until(time.monotonic() + self.options.hours * 3600)
            self.over.set()
            await asyncio.gather(killing, looking)
        self.load.violations += await self._left()
        return Findings(
            commit_id(),
            self.options.hours,
            self.options.seed,
            self.options.rate,
            self.options.kills,
            self.load.submitted,
            dict(self.load.ended),
            self.kills,
            self.load.recoveries,
            self.load.violations,
            (min(self.loads), max(self.loads)),
        )

    def _processes(self) -> Iterator[tuple[str, int]]:
        """Role and pid of each process that may be killed."""
        groups = {"manager": self.arena.managers, "worker": self.arena.workers, "prefork": self.arena.cpu}
        for role, group in groups.items():
            yield from ((role, process.pid) for process in group if process.poll() is None)
        for process in self.arena.cpu:
            yield from (("child", pid) for pid in children_of(process.pid))

    async def _kill(self) -> None:
        """Every second each process dies with a chance that makes the wanted share a minute; the dead are replaced."""
        while not await self._over_in(1.0):
            for _, pid in list(self._processes()):
                if self.chance.random() < self.options.kills / 100 / 60:
                    self._kill_one(pid)
            self._look_for_orphans()
            self.arena.replace_dead()

    def _kill_one(self, pid: int) -> None:
        children = children_of(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills += 1
        for dead in (pid, *children):
            self.load.deaths[dead] = now_ms()
        self.orphans |= dict.fromkeys(children, time.monotonic())

    def _look_for_orphans(self) -> None:
        for pid, since in list(self.orphans.items()):
            if sample_process(pid) is None:
                del self.orphans[pid]
            elif time.monotonic() - since > ORPHAN_TIMEOUT_S:
                self.load.violations.append(f"child {pid} outlived its worker by {ORPHAN_TIMEOUT_S} s")
                del self.orphans[pid]

    async def _look(self) -> None:
        redis, ended = self.arena.fleet.server.process, self.client.keyspace.shard("cancelled")
        assert redis is not None
        while not await self._over_in(max(2.0, self.options.hours * 3600 / SAMPLES)):
            facts = {"redis": await sample_redis(self.client.client, redis.pid, ended)}
            for role, pid in self._processes():
                if (seen := sample_process(pid)) is not None:
                    facts[f"{role} {pid}"] = seen
            self.samples.add(facts)
            self.loads.append(os.getloadavg()[0])

    async def _over_in(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        return self.over.is_set()

    async def _left(self) -> list[str]:
        """What is left when nothing runs: nothing that is open, and after the retention only what PERMANENT names."""
        await self.arena.make_whole(self.client)
        told = await left_over(self.client.client, self.client.keyspace, ())

        async def strangers() -> list[str]:
            prefix = f"{{{self.client.keyspace.namespace}:0}}:"
            allowed = {prefix + name for name in PERMANENT}
            found = [key.decode() async for key in self.client.client.scan_iter(count=1000)]
            return [
                key for key in found if key not in allowed and not key.startswith("_kombu") and await self._stays(key)
            ]

        deadline = time.monotonic() + RETENTION_S + 30
        while (stay := await strangers()) and time.monotonic() < deadline:
            await asyncio.sleep(1)
        return told + [f"I7 {key} would stay for ever" for key in stay]

    async def _stays(self, key: str) -> bool:
        return bool(await self.client.client.ttl(key) == -1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0, help="may be a fraction")
    parser.add_argument(
        "--kills", type=float, default=1.0, help="share of the processes that is killed a minute, percent"
    )
    parser.add_argument("--rate", type=float, default=4.0, help="runs a second, of about five steps each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, default=Path("soak-report"), help="folder for report, samples and plots")
    options = parser.parse_args()
    options.report.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flujo-soak-") as folder:
        arena = Arena(Path(folder), more={"FLUJO_RETENTION_S": str(RETENTION_S)})
        try:
            passed = asyncio.run(_soak(arena, options))
        finally:
            arena.stop()
    print((options.report / "report.md").read_text())
    return int(not passed)


async def _soak(arena: Arena, options: argparse.Namespace) -> bool:
    path = options.report / "samples.jsonl"
    path.unlink(missing_ok=True)
    async with arena.connected() as client:
        await arena.make_whole(client)
        soak = Soak(arena, client, options, Samples(path))
        return write_report(options.report, await soak.run(), soak.samples.series)


if __name__ == "__main__":
    sys.exit(main())
