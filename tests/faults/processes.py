"""Faults of processes: killed, stopped, starved."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.faults.rounds import Round
from tests.faults.workload import CPU, FAR, now_ms

__all__ = ["PROCESS_FAULTS"]


async def kill_prefork_child(this: Round) -> None:
    await this.load(held=2, free=4, queue=CPU)
    this.kill(this.victim())
    await this.until_rerun()


async def kill_worker(this: Round) -> None:
    await this.load()
    this.kill(this.victim())
    await this.until_rerun()


async def kill_managers(this: Round) -> None:
    """One, which leaves the other; both; or both, with others a moment later."""
    await this.load()
    doomed = this.chance.choice((1, 2, 2))
    this.how = f"{doomed} of 2"
    for manager in this.chance.sample(this.arena.managers, doomed):
        this.kill(manager.pid)
    if doomed == 1:
        (this.left_to_one_ms,) = this.deaths.values()
    this.deaths.clear()  # no step was in their hands
    this.open_gates()
    if doomed == 2:
        await asyncio.sleep(this.chance.random() * 3)
        await this.arena.make_whole(this.client)


async def stop_worker_past_its_lease(this: Round) -> None:
    """A zombie: it goes on when others have committed what it holds."""
    await this.load()
    victim = this.victim()
    held = [run_id for run_id in this.held if victim in this.holders(run_id)]
    os.kill(victim, signal.SIGSTOP)
    this.deaths[victim] = now_ms()
    this.kills += 1  # to all others it is dead
    this.paused.add(victim)
    try:
        await this.until_rerun()
        this.open_gates()
        for run_id in held:
            await this.client.reader.wait(run_id, 60)
    finally:
        os.kill(victim, signal.SIGCONT)

    def billed() -> bool:
        mine = [entry for entry in this.entries(pid=victim) if entry["run_id"] in held]
        starts = {entry["nonce"] for entry in mine if entry["kind"] == "started"}
        return starts <= {entry["nonce"] for entry in mine if entry["kind"] == "bill"}

    async def settled() -> bool:
        for run_id in held:
            accounts = await this.client.client.hgetall(this.client.keyspace.run(run_id).accounts)
            if any(name.endswith(b"|unknown") and value != b"0" for name, value in accounts.items()):
                return False
        return True

    await this.until(billed, "the zombie has billed what it had begun")
    await this.until(settled, "the zombie's bills are settled")


async def wrong_clock(this: Round) -> None:
    """One worker lives an hour ahead, one an hour behind, and takes steps of one queue with others."""
    workers = [this.arena.spoilt_worker(FAULT_CLOCK_SKEW_S=skew) for skew in ("3600", "-3600")]
    try:
        for worker in workers:
            await this.arena.at_work(worker)
        await this.load(queue=FAR, held=3, free=20)
        await this.all_end()
        assert {worker.pid for worker in workers} & {entry["pid"] for entry in this.entries()}, "they took steps"
    finally:
        for worker in workers:
            worker.terminate()
            await asyncio.to_thread(worker.wait)


async def die_while_budgets_move(this: Round) -> None:
    """Managers and a worker die during splits, joins and cancels; half of the runs are cancelled."""
    for number in range(12):
        this.inputs[f"{this.name}-{number}"] = "fork_default", {"pace_ms": this.chance.randrange(1, 30)}
    await this.submit()
    await asyncio.sleep(this.chance.random() * 0.4)
    doomed = [*this.arena.managers, this.chance.choice(this.arena.workers)]
    this.chance.shuffle(doomed)
    cancelled = this.chance.sample(list(this.inputs), 6)
    for process in doomed:
        await asyncio.sleep(this.chance.random() * 0.1)
        this.kill(process.pid)
        for run_id in (cancelled.pop(), cancelled.pop()):
            await this.cancel(run_id)
    this.ends = ("completed", "cancelled")
    await this.arena.make_whole(this.client)


PROCESS_FAULTS = {
    "F1": ("kill -9 of a prefork child", kill_prefork_child),
    "F2": ("kill -9 of a worker", kill_worker),
    "F3": ("kill -9 of one or both managers", kill_managers),
    "F7": ("a worker stopped past its lease goes on", stop_worker_past_its_lease),
    "F10": ("workers whose clocks are an hour off", wrong_clock),
    "F20": ("managers and a worker die during splits, joins and cancels", die_while_budgets_move),
}
