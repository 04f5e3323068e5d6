"""Workers that are asked to leave, with steps in hand and under load."""

from __future__ import annotations

import asyncio
import subprocess

from tests.faults.rounds import Round
from tests.faults.workload import ANYWHERE, CPU, FAR, LIMIT, now_ms

__all__ = ["LEAVE_FAULTS"]

#: Less than a held step takes.
GRACE_S = 0.2

#: What a worker gives back after its grace begins elsewhere by then; at its lease's end it would be 2.5 s.
HANDED_OVER_MS = 1_000


async def hand_over(this: Round) -> None:
    """A worker leaves with steps in hand that take longer than its grace; the time runs from the end of the grace."""
    leaving = [this.arena.worker(FAR, FLUJO_SHUTDOWN_GRACE_S=str(GRACE_S)) for _ in range(2)]
    try:
        for worker in leaving:
            await this.arena.at_work(worker)
        await this.load(queue=FAR, held=12)
        holding = [worker for worker in leaving if any(worker.pid == this.holders(run)[-1] for run in this.held)]
        assert holding, "one of those that leave holds a step"
        victim = this.chance.choice(holding)
        this.excused.add(victim.pid)  # what it had begun runs again
        victim.terminate()
        this.deaths[victim.pid] = now_ms() + round(GRACE_S * 1000)
        await this.until_rerun()
        late = [took_ms for took_ms in this.recoveries_ms() if took_ms > HANDED_OVER_MS]
        this.violations += [f"handed over only after {took_ms} ms" for took_ms in late]
        this.open_gates()
    finally:
        for worker in leaving:
            worker.terminate()
        for worker in leaving:
            await asyncio.to_thread(worker.wait)


async def roll_all_workers(this: Round) -> None:
    """Each worker is told to leave, ends what it has in hand, and another takes its place: no step runs twice."""
    await this.load()
    for number, worker in enumerate((*this.arena.workers, *this.arena.cpu)):
        await _submit_more(this, number)
        await asyncio.sleep(this.chance.random() * 0.1)
        await _leave(this, worker)
        this.arena.replace_dead()
        for successor in (*this.arena.workers, *this.arena.cpu):
            await this.arena.at_work(successor)


async def _leave(this: Round, worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    await this.until(lambda: "Warm shutdown" in this.arena.fleet.log_of(worker), "the worker has heard it")
    this.open_gates()
    await asyncio.to_thread(worker.wait)


async def _submit_more(this: Round, number: int) -> None:
    for one in range(6):
        run_id = f"{this.name}-more-{number}-{one}"
        kind = "relay" if one == 0 else this.chance.choice(("relay", "fork"))
        queue = CPU if one == 0 else ANYWHERE
        this.inputs[run_id] = f"{kind}_{queue}", {"pace_ms": this.chance.randrange(10, 120)}
        pipeline, value = this.inputs[run_id]
        await this.client.submit(pipeline, value, run_id=run_id, usage_limits=LIMIT)


LEAVE_FAULTS = {
    "F24": ("a worker leaves, and its grace is shorter than what it has in hand", hand_over),
    "F25": ("all workers are restarted one after another under load", roll_all_workers),
}
