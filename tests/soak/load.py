"""The load of a soak: runs at a steady rate, each judged by the oracle soon after its end, and forgotten."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.errors import ResultTimeoutError
from tests.faults.ledger import Ledger
from tests.faults.oracle import (
    Excuses,
    judge_cancel,
    judge_run,
    parts_of,
    read_story,
    recoveries_ms,
    reserved_by_nobody,
)
from tests.faults.rounds import END_TIMEOUT_S
from tests.faults.workload import ANYWHERE, CPU, KINDS, LIMIT, now_ms

__all__ = ["Load"]

PIPELINES = (*(f"{kind}_{ANYWHERE}" for kind in KINDS), f"relay_{CPU}")

#: Of a hundred runs so many are cancelled in the middle.
CANCELLED_PERCENT = 3

#: The leases of the dead are given up, and what they had reserved is settled, within this time after a run's end.
SETTLED_TIMEOUT_S = 15.0


@dataclass
class Load:
    """Submits, cancels, waits and judges.

    Args:
        ledger: What steps write.
        rate: Runs a second.
        deaths: When each process was killed, by pid; whoever kills adds to it.
    """

    client: AsyncFlujoClient
    ledger: Ledger
    rate: float
    chance: random.Random
    deaths: dict[int, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)
    submitted: int = 0
    _lines: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    _under_way: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.name = f"soak-{now_ms() % 10**8}"

    async def submit_until(self, deadline: float) -> None:
        """Submit at the rate until a moment of the monotonic clock; return when every run is judged."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as runs:
            while time.monotonic() < deadline:
                runs.create_task(self._one(self.submitted))
                self.submitted += 1
                await asyncio.sleep(max(0.0, began + self.submitted / self.rate - time.monotonic()))

    async def _one(self, number: int) -> None:
        run_id, pipeline = f"{self.name}-{number}", PIPELINES[number % len(PIPELINES)]
        self._under_way.add(run_id)
        run = await self.client.submit(
            pipeline, {"pace_ms": self.chance.randrange(1, 40)}, run_id=run_id, usage_limits=LIMIT
        )
        cancelled_ms = None
        if self.chance.random() * 100 < CANCELLED_PERCENT:
            await asyncio.sleep(self.chance.random() * 0.3)
            if await run.cancel():
                cancelled_ms = now_ms()
                self.violations += await reserved_by_nobody(self.client.client, self.client.keyspace, run_id)
        try:
            await self.client.reader.wait(run_id, END_TIMEOUT_S)
        except ResultTimeoutError:
            self.violations.append(f"I1 {run_id} has not ended in {END_TIMEOUT_S} s")
        await self._settled(run_id)
        await self._judge(run_id, cancelled_ms)
        self._under_way.discard(run_id)

    async def _settled(self, run_id: str) -> None:
        key, deadline = self.client.keyspace.run(run_id).accounts, time.monotonic() + SETTLED_TIMEOUT_S
        while await reserved_anywhere(self.client.client, key):
            if time.monotonic() > deadline:
                self.violations.append(f"I7 {run_id} has reservations {SETTLED_TIMEOUT_S} s after its end")
                return
            await asyncio.sleep(0.5)

    async def _judge(self, run_id: str, cancelled_ms: int | None) -> None:
        story = await read_story(self.client.client, self.client.keyspace, run_id)
        self.read_ledger()
        ledger, excuses = self._lines.pop(run_id, []), Excuses(set(self.deaths))
        self.violations += judge_run(
            story, ledger, excuses, ends=("completed",) if cancelled_ms is None else ("cancelled",)
        )
        if cancelled_ms is not None:
            self.violations += judge_cancel(story, ledger, cancelled_ms, excuses)
        self.recoveries += recoveries_ms(ledger, self.deaths)
        self.ended[story.record.get("status", "unknown")] += 1

    def read_ledger(self) -> None:
        """Take what steps have written since; nobody may write of a run that was judged."""
        for line in self.ledger.take():
            if line["run_id"] in self._under_way:
                self._lines[line["run_id"]].append(line)
            elif line["run_id"].startswith(self.name):
                self.violations.append(
                    f"I6 {line['run_id']} {line['path']}: {line['kind']} after the run was judged: {line}"
                )


async def reserved_anywhere(client: Any, key: str) -> bool:
    """Whether an account of a run holds a reservation."""
    fields = {name.decode(): value.decode() for name, value in (await client.hgetall(key)).items()}
    return any(part.endswith("|reserved") and left for part, left in parts_of(fields).items())
