"""A hundred branches on one cap, while their workers are killed and stopped, messages come twice and runs are cancelled."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
from collections.abc import Callable, Sequence

import pytest

from flujo_client import AsyncFlujoClient, UsageLimitExceededError, UsageLimits
from flujo_client.audit import Auditor
from flujo_client.client import AsyncRun
from flujo_client.protocol.accounts import AccountRow, read_accounts
from flujo_client.protocol.errors import RunCancelledError
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.queues import broker_queue
from flujo_client.protocol.quota import parse_amounts
from tests.integration.budgets import MOST
from tests.integration.conftest import Fleet
from tests.storms import note_storm

FIRST = int(os.environ.get("TEST_STORM_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("TEST_STORM_SEEDS", "5")))
WORKERS = 3


class Storm:
    """Kills, stops and repeats, from a seed, until it is told to stop."""

    def __init__(self, fleet: Fleet, client: AsyncFlujoClient, seed: int) -> None:
        self._fleet, self._client = fleet, client
        self._chance = random.Random(seed)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.stopped: list[subprocess.Popen[bytes]] = []
        self.done = {"killed": 0, "stopped": 0, "repeated": 0}
        self._over = asyncio.Event()

    def start_workers(self) -> None:
        while len(self.workers) < WORKERS:
            self.workers.append(self._fleet.worker("--concurrency", "8"))

    async def rage(self, run_id: str) -> None:
        """Strike whenever the run has been billed so many times more; meanwhile every message that waits is sent again."""
        strikes = sorted(self._chance.sample(range(3, 95), 5))
        while not self._over.is_set():
            await asyncio.sleep(0.1)
            await self._repeat_messages()
            if strikes and len(self._fleet.entries(kind="bill", run_id=run_id)) >= strikes[0]:
                strikes.pop(0)
                self._strike()

    def _strike(self) -> None:
        victim = self.workers.pop(self._chance.randrange(len(self.workers)))
        if self._chance.random() < 0.6:
            victim.kill()
            self.done["killed"] += 1
        else:
            victim.send_signal(signal.SIGSTOP)
            self.stopped.append(victim)
            self.done["stopped"] += 1
        self.start_workers()

    async def _repeat_messages(self) -> None:
        queue = broker_queue(self._client.keyspace.namespace, "default")
        for message in (await self._client.client.lrange(queue, 0, -1))[:5]:
            await self._client.client.rpush(queue, message)
            self.done["repeated"] += 1

    async def calm(self, raging: asyncio.Task[None]) -> None:
        """End it, and let those that were stopped go on and leave: by then they have written, and settled, their late bills."""
        self._over.set()  # no cancel: redis-py may swallow it
        await raging
        for victim in self.stopped:
            victim.send_signal(signal.SIGCONT)
            victim.terminate()
        for victim in self.stopped:
            await asyncio.to_thread(victim.wait)
        self.stopped = []


async def outcome_of(run: AsyncRun) -> UsageLimitExceededError | RunCancelledError | None:
    try:
        await run.result(timeout_s=120)
    except (UsageLimitExceededError, RunCancelledError) as error:
        return error
    return None


async def rows_of(client: AsyncFlujoClient, run_id: str) -> list[AccountRow]:
    fields = await client.client.hgetall(client.keyspace.run(run_id).accounts)
    return read_accounts({name.decode(): value.decode() for name, value in fields.items()})


def least_free_at_refusal(events: Sequence[Event], cap: int) -> int:
    """What the whole tree had free when it refused, by what its stream had said until then: nothing ran any more, so nothing was
    reserved. What was lost counts with all that it had reserved: a late bill, which no event tells of, can only have freed some of it.
    """
    before = list(itertools.takewhile(lambda event: event.kind is not EventKind.REFUSED, events))
    assert len(before) < len(events)
    used = sum(parse_amounts(event.fields.get("usage", "")).get("tokens", 0) for event in before)
    lost = [event for event in before if event.kind is EventKind.LOST and event.fields["reason"] != "stranger"]
    return cap - used - MOST * len(lost)


@pytest.fixture(scope="module")
def stormy(make_fleet: Callable[..., Fleet]) -> Fleet:
    fleet = make_fleet("storm")
    fleet.manager()
    return fleet


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", SEEDS)
async def test_a_hundred_branches_never_bill_more_than_the_cap(stormy: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    cap, run_id = chance.randrange(900, 1900), f"storm-{seed}"
    async with AsyncFlujoClient(settings=stormy.settings()) as client:
        storm = Storm(stormy, client, seed)
        storm.workers = [process for process in stormy.processes.values() if process.poll() is None][1:]
        storm.start_workers()
        await stormy.published(client, "storm")
        run = await client.submit("storm", 1, run_id=run_id, usage_limits=UsageLimits(total_tokens_limit=cap))
        rage = asyncio.create_task(storm.rage(run_id))
        if seed % 5 == 4:
            await stormy.billed([run_id], 30)
            await run.cancel("in the middle")
        error = await outcome_of(run)
        events = [event async for event in run.events()]
        await storm.calm(rage)

        async def at_rest() -> bool:
            return sum(row.reserved for row in await rows_of(client, run_id)) == 0

        await stormy.until(at_rest, "no reservation is open")
        differences = await Auditor(client.client, client.keyspace).audit(run_id)
        rows = await rows_of(client, run_id)

    billed = sum(entry["tokens"] for entry in stormy.entries(kind="bill", run_id=run_id))
    note_storm("storm", {"seed": seed, **storm.done, "cap": cap, "billed": billed, "outcome": type(error).__name__})
    root = next(row for row in rows if row.account == "root")
    assert billed <= sum(row.spent + row.unknown for row in rows) <= root.granted == cap
    assert differences == []
    if isinstance(error, UsageLimitExceededError):
        assert error.data["meter"] == "tokens"
        assert error.data["account"].startswith("0.")
        assert least_free_at_refusal(events, cap) <= int(error.data["free"]) < int(error.data["asked"]) == MOST
    if seed % 5 == 4:
        assert isinstance(error, RunCancelledError)
        assert billed >= 30
    else:
        assert error is None or isinstance(error, UsageLimitExceededError)
