"""Faults of many at once: a crowd of branches on one budget that is cancelled in the middle; answers that race."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from flujo_client import AsyncFlujoClient, UsageLimits
from flujo_client.protocol.errors import ResumeError
from tests.faults.crowds import WIDTH
from tests.faults.oracle import Given
from tests.faults.rounds import Round
from tests.faults.workload import TOKENS_BILLED, TOKENS_EXPECTED

__all__ = ["CROWD_FAULTS"]

#: What a crowd really bills, and what its last step must be able to reserve on top: the tightest budget that can do.
_TIGHT = (WIDTH + 1) * TOKENS_BILLED + TOKENS_EXPECTED


async def cancel_a_crowd(this: Round) -> None:
    """Two crowds at once, 30 % of whose branches fail; one is cancelled after a seeded number of bills."""
    this.failures, this.ends = True, ("completed", "cancelled")
    budget = this.chance.choice((_TIGHT, 2 * _TIGHT, (WIDTH + 2) * TOKENS_EXPECTED))
    this.how = f"a budget of {budget}"
    limits = UsageLimits(total_tokens_limit=budget)
    whole, cancelled = f"{this.name}-whole", f"{this.name}-cancelled"
    for run_id in (cancelled, whole):
        this.inputs[run_id] = "crowd_800", {"pace_ms": this.chance.randrange(1, 50)}
        await this.client.submit(*this.inputs[run_id], run_id=run_id, usage_limits=limits)
    bills = this.chance.randrange(1, WIDTH)
    await this.until(lambda: len(this.entries(run_id=cancelled, kind="bill")) >= bills, f"{bills} bills")
    await this.cancel(cancelled)
    result = await this.client.run(whole).result(60)
    billed = len(this.entries(run_id=whole, kind="bill"))
    if not result.success or billed != WIDTH + 2:
        this.violations.append(f"I1 {whole} is {result.status}, and billed {billed} steps of {WIDTH + 2}")


async def race_answers(this: Round) -> None:
    """Several people answer each question: before it is asked, while it is, after it was cancelled; and processes die."""
    runs = [f"{this.name}-{number}" for number in range(8)]
    for run_id in runs:
        this.inputs[run_id] = "asked", {"pace_ms": this.chance.randrange(1, 60)}
    clients = [AsyncFlujoClient(settings=this.arena.fleet.settings()) for _ in range(3)]
    this.ends = ("completed", "cancelled")
    try:
        await this.submit()
        cancelled = this.chance.sample(runs, 2)
        killing = asyncio.create_task(_kill_at_the_question(this))
        people = [_answer(this, client, run_id, number) for run_id in runs for number, client in enumerate(clients)]
        await asyncio.gather(*people, *(_cancel_later(this, run_id) for run_id in cancelled))
        await killing
    finally:
        for client in clients:
            await client.close()
    await this.arena.make_whole(this.client)


async def _answer(this: Round, client: AsyncFlujoClient, run_id: str, number: int) -> None:
    await asyncio.sleep(this.chance.random() * 0.6)
    by = f"person-{number}"
    try:
        await client.run(run_id).resume({"by": by}, token="1")
    except ResumeError as error:
        this.given.append(Given(run_id, by, accepted=False, told=str(error)))
    else:
        this.given.append(Given(run_id, by, accepted=True))


async def _cancel_later(this: Round, run_id: str) -> None:
    await asyncio.sleep(this.chance.random() * 0.6)
    await this.cancel(run_id)


async def _kill_at_the_question(this: Round) -> None:
    """A worker or a manager dies at a seeded moment after the first question was committed, or nobody does."""
    this.how = how = this.chance.choice(("nobody", "worker", "manager"))
    keys = [this.client.keyspace.run(run_id).events for run_id in this.inputs]

    async def asked() -> bool:
        for key in keys:
            if any(fields.get(b"kind") == b"paused" for _, fields in await this.client.client.xrange(key)):
                return True
        return await all_ended()

    async def all_ended() -> bool:
        finals = [
            await this.client.client.hexists(this.client.keyspace.run(run_id).run, "final") for run_id in this.inputs
        ]
        return all(finals)

    if how == "nobody":
        return
    await this.until(asked, "a question was committed")
    await asyncio.sleep(this.chance.random() * 0.2)
    this.kill(this.chance.choice(this.arena.workers if how == "worker" else this.arena.managers).pid)
    this.deaths.clear()  # whether it held a step is chance: nothing to be timed


CROWD_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F18": ("800 branches on one budget, 30 % of them failing, and a cancel in the middle", cancel_a_crowd),
    "F19": ("answers that race the question, each other, a cancel and a kill", race_answers),
}
