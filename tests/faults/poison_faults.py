"""Faults that come with the work itself: steps that kill or block their worker, messages and payloads that are garbage."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from flujo_client import AsyncFlujoClient
from tests.faults.arena import SITE
from tests.faults.poison import POISON
from tests.faults.rounds import Round
from tests.faults.workload import FAR

__all__ = ["POISON_FAULTS"]

#: How each ends its runs: its deaths are counted, or its attempt fails at once.
_STEPS: dict[str, str | None] = {
    "exits": "crashed its worker 3 times",
    "crashes": "crashed its worker 3 times",
    "spins": "crashed its worker 3 times",
    "raises_exit": "SystemExit",
    "takes_no_notice": None,  # it ends well, late
    "returns_garbage": "cannot be sent",
}

_GARBAGE = (
    b"",
    b"\x00\xff",
    b"{}",
    b"[]",
    b'{"body": "!", "properties": {}}',
    b"null",
    b'{"headers": {"task": "os.system"}}',
)


@asynccontextmanager
async def supervised(this: Round, queues: str, count: int, **environment: str) -> AsyncIterator[list[int]]:
    """Workers of their own, each started again when it ends, as a supervisor does."""
    workers: list[subprocess.Popen[bytes]] = []
    pids: list[int] = []
    over = asyncio.Event()

    async def keep() -> None:
        while not over.is_set():
            workers[:] = [worker for worker in workers if worker.poll() is None]
            for _ in range(count - len(workers)):
                workers.append(this.arena.worker(queues, **environment))
                pids.append(workers[-1].pid)
                this.excused.add(workers[-1].pid)
            await asyncio.sleep(0.1)

    keeping = asyncio.create_task(keep())
    try:
        yield pids
    finally:
        over.set()
        await keeping
        for worker in workers:
            worker.terminate()
        for worker in workers:
            await asyncio.to_thread(worker.wait)


async def poison(this: Round) -> None:
    """A step that kills, blocks or ignores, beside others in the same processes; and garbage in their queue."""
    this.how = how = list(_STEPS)[this.seed % len(_STEPS)]
    async with supervised(this, f"{FAR},{POISON}", 2, FLUJO_LOOP_STALL_S="2") as pids:
        for entry in this.chance.sample(_GARBAGE, 4):
            await this.arena.broker.put(POISON, entry)
        run = await this.client.submit(how, 1, run_id=f"{this.name}-poison")
        await this.load(queue=FAR, held=2, free=6)
        this.open_gates()
        await _bounded(this, run.run_id, _STEPS[how])
        await this.all_end()
        assert len(pids) <= 2 + 3, f"{len(pids)} workers: three may die of it"


async def _bounded(this: Round, run_id: str, says: str | None) -> None:
    result = await this.client.run(run_id).result(60)
    if says is None:
        return
    if result.success or says not in str(result.step_history[-1].feedback):
        this.violations.append(f"I1 {run_id} ended otherwise: {result.step_history[-1].feedback}")


async def eat_memory(this: Round) -> None:
    """A step takes all the memory that its process may have."""
    path = f"{SITE}:{this.arena.fleet.environment['PYTHONPATH']}"
    async with supervised(this, f"{FAR},{POISON}", 1, PYTHONPATH=path, FAULT_MEMORY_MB="1500"):
        run = await this.client.submit("eats", 1, run_id=f"{this.name}-eats")
        await this.load(queue=FAR, held=2, free=6)
        this.open_gates()
        await _bounded(this, run.run_id, "")
        await this.all_end()


_PAYLOADS: dict[str, tuple[str, int, bool]] = {
    "1 kB": ("returns_large", 1_000, True),
    "8 MB": ("returns_large", 8 << 20, True),
    "more than may be": ("returns_large", 65 << 20, False),
    "NaN": ("returns_nan", 1, True),
    "nested 40 deep, with NUL": ("returns_deep", 40, True),
    "nested 5,000 deep": ("returns_deep", 5_000, False),
    "300 branches": ("wide", 1, True),
}


async def odd_payloads(this: Round) -> None:
    """What is sent arrives; what cannot be says so, once; nobody else notices."""
    await this.load(queue=FAR, held=0, free=4)
    kinds = list(_PAYLOADS)
    runs = {
        kind: await _submit(this.client, f"{this.name}-odd-{at}", *_PAYLOADS[kind][:2]) for at, kind in enumerate(kinds)
    }
    for kind, run in runs.items():
        result = await run.result(60)
        if result.success != _PAYLOADS[kind][2]:
            this.violations.append(f"I1 {kind}: {result.step_history[-1].feedback}")
    await this.nobody_is_deaf()


async def _submit(client: AsyncFlujoClient, run_id: str, pipeline: str, number: int) -> Any:
    return await client.submit(pipeline, number, run_id=run_id)


POISON_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F11": ("steps that kill, block or ignore; garbage messages", poison),
    "F12": ("odd payloads", odd_payloads),
    "F16": ("a step that takes all memory", eat_memory),
}
