"""Rounds: one fault under one seed on an arena, and what the oracle says of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as aioredis

from flujo_client import AsyncFlujoClient
from flujo_client.protocol.errors import FlujoError, ResultTimeoutError, StateUnavailableError
from tests.faults.arena import Arena
from tests.faults.ledger import Ledger
from tests.faults.oracle import (
    Excuses,
    Given,
    Story,
    goes_on_ms,
    judge_accounts,
    judge_answers,
    judge_cancel,
    judge_run,
    left_over,
    read_story,
    recoveries_ms,
    reserved_by_nobody,
)
from tests.faults.workload import ANYWHERE, CPU, FAR, KINDS, LIMIT, now_ms

#: Within this time after a fault every run must have ended.
END_TIMEOUT_S = 40.0

#: A step of the dead that does not run elsewhere within this time is not what is promised.
SLOW_MS = 5_000

#: A worker that is not deaf runs a step within this time after its Redis is back.
DEAF_AFTER_S = 10.0

QUEUES = (ANYWHERE, FAR, CPU)


@dataclass
class Outcome:
    """What one round showed.

    Attributes:
        silence_ms: How long Redis took to answer this process at the worst: what is this long was the machine, or the fault.
        unmanaged: For a while no manager lived at all: then recovery waits for others to be started.
        load: How many processes of the machine wanted a processor at its end: what its times are to be read with.
    """

    seed: int
    runs: int
    violations: list[str]
    recoveries_ms: list[int]
    kills: int
    took_s: float
    how: str = ""
    unmanaged: bool = False
    silence_ms: int = 0
    load: float = field(default_factory=lambda: round(os.getloadavg()[0], 1))


@dataclass
class Round:
    """One fault, one seed: some runs are held inside a seeded step, others flow, and the fault comes at a seeded moment."""

    fault: str
    seed: int
    arena: Arena
    client: AsyncFlujoClient
    inputs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    kills: int = 0
    left_to_one_ms: int | None = None  # when one of two managers died
    unmanaged: bool = False
    silence_ms: int = 0
    excused: set[int] = field(default_factory=set)
    paused: set[int] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    ends: tuple[str, ...] = ("completed",)
    ends_of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    tail_lost: bool = False
    failures: bool = False
    submit_again: bool = False
    cancelled: dict[str, int] = field(default_factory=dict)
    given: list[Given] = field(default_factory=list)
    how: str = ""

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.fault} {self.seed}")
        self.ledger = Ledger(self.arena.ledger)
        self.name = f"{self.fault}-{self.seed}-{now_ms() % 10**8}".lower()

    @property
    def held(self) -> list[str]:
        return [run_id for run_id, (_, value) in self.inputs.items() if "hold_at" in value]

    def entries(self, **wanted: Any) -> list[dict[str, Any]]:
        """The ledger's lines of this round that say all of `wanted`."""
        lines = [entry for entry in self.ledger.entries() if entry["run_id"] in self.inputs]
        return [entry for entry in lines if all(entry[name] == value for name, value in wanted.items())]

    async def load(self, *, held: int = 4, free: int = 6, queue: str = ANYWHERE) -> None:
        """Submit runs of every kind and wait for the moment."""
        kinds = ("relay",) if queue == CPU else KINDS
        for number in range(held + free):
            kind = kinds[number % len(kinds)]
            value: dict[str, Any] = {"pace_ms": self.chance.randrange(1, 40)}
            if number < held:
                value |= {"hold_at": self.chance.randrange(0, 4), "billed_first": self.chance.random() < 0.5}
            self.inputs[f"{self.name}-{number}"] = f"{kind}_{queue}", value
        await self.submit()
        bills = self.chance.randrange(1, 4 * free) if free else 0
        await self.until(lambda: self._holding() and len(self.entries(kind="bill")) >= bills, "the moment")
        await asyncio.sleep(self.chance.random() * 0.05)

    async def submit(self) -> None:
        """Submit every run; one that is known already is found again."""
        for run_id, (pipeline, value) in self.inputs.items():
            await self.client.submit(pipeline, value, run_id=run_id, usage_limits=LIMIT)

    def _holding(self) -> bool:
        return all(self.holders(run_id) for run_id in self.held)

    def holders(self, run_id: str) -> list[int]:
        """The processes in which a held run waits, or waited."""
        hold_at, first = self.inputs[run_id][1]["hold_at"], self.inputs[run_id][1]["billed_first"]
        lines = self.entries(run_id=run_id, kind="bill" if first else "started")
        reached = {entry["path"] for entry in self.entries(run_id=run_id, kind="started")}
        return [entry["pid"] for entry in lines] if len(reached) > hold_at else []

    def victim(self) -> int:
        """A process that holds a step."""
        return self.holders(self.chance.choice(self.held))[-1]

    def kill(self, pid: int) -> None:
        """SIGKILL."""
        self.deaths[pid] = now_ms()
        self.kills += 1
        self.excused.add(pid)
        os.kill(pid, signal.SIGKILL)
        for process in self.arena.fleet.processes.values():
            if process.pid == pid:
                process.wait()
        self.unmanaged |= all(manager.poll() is not None for manager in self.arena.managers)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run; from the acknowledgement on nothing of it may start, and what had not started is free (I8)."""
        if await self.client.run(run_id).cancel():
            self.cancelled[run_id] = now_ms()
            self.violations += await reserved_by_nobody(self.client.client, self.client.keyspace, run_id)

    def open_gates(self) -> None:
        for run_id in self.held:
            self.arena.fleet.open_gate(run_id)

    async def until(self, condition: Callable[[], Any], what: str, timeout_s: float = END_TIMEOUT_S) -> Any:
        return await self.arena.fleet.until(condition, what, timeout_s)

    async def lose_messages(self) -> None:
        """Lose every message that waits."""
        await self.arena.broker.empty(QUEUES)

    async def until_rerun(self) -> None:
        """Wait until everything that the dead had in hand runs elsewhere."""
        await self.until(self._all_run_again, f"{len(self.deaths)} dead processes' steps run again")

    def recoveries_ms(self) -> list[int]:
        """From each death to the next start elsewhere of each step that the dead had in hand."""
        return recoveries_ms(self.entries(), self.deaths)

    def _all_run_again(self) -> bool:
        waiting = [run_id for run_id in self.held if self.holders(run_id)[-1] in self.deaths]
        return not waiting

    async def nobody_is_deaf(self) -> None:
        """Within ten seconds after the fault is over every worker runs a step, and both managers renew what they hold (I11)."""
        await self.hears(worker.pid for worker in self.arena.workers)
        await self.hears((), CPU)  # by any of its processes
        await self.until(lambda: self.arena.managed(self.client), "I11 both managers are at work", DEAF_AFTER_S)

    async def hears(self, pids: Iterable[int], queue: str = ANYWHERE) -> None:
        """Steps of a queue run within ten seconds, in each of these processes."""
        since, pipeline, wanted = now_ms(), f"relay_{queue}", set(pids)

        async def all_ran() -> bool:
            with suppress(FlujoError):
                run_id = f"{self.name}-probe-{len(self.inputs)}"
                self.inputs[run_id] = pipeline, {"pace_ms": 1}
                await self.client.submit(pipeline, {"pace_ms": 1}, run_id=run_id, usage_limits=LIMIT)
            await asyncio.sleep(0.1)
            starts = [entry for entry in self.entries(kind="started") if entry["at_ms"] > since]
            begun = {entry["pid"] for entry in starts if self.inputs[entry["run_id"]][0] == pipeline}
            return bool(begun) and wanted <= begun

        await self.until(all_ran, f"I11 every worker of {queue} runs a step", DEAF_AFTER_S)

    async def all_end(self) -> None:
        """Open the gates, and wait until every run has ended and nothing is left to settle."""
        self.open_gates()
        if self.submit_again:
            await _patiently(self.submit)
        for run_id in self.inputs:
            with suppress(ResultTimeoutError):
                await self.client.reader.wait(run_id, END_TIMEOUT_S)

    async def judge(self) -> list[str]:
        """Every invariant, on every run of the round and on what is left."""
        keyspace = self.client.keyspace
        excuses = Excuses(self.excused | self.paused, self.paused, self.tail_lost, self.failures)
        left = await self._left_over()  # by then the last leases of the dead are given up, and late bills settled
        told = [*self.violations, *left]
        for run_id in self.inputs:
            story = await read_story(self.client.client, keyspace, run_id)
            ledger = self.entries(run_id=run_id)
            before = len(told)
            told += judge_run(story, ledger, excuses, ends=self.ends_of.get(run_id, self.ends))
            told += judge_answers(story, ledger, [answer for answer in self.given if answer.run_id == run_id])
            if run_id in self.cancelled:
                told += judge_cancel(story, ledger, self.cancelled[run_id], excuses)
            if len(told) > before:
                self._keep(story, ledger, told[before:])
        return told

    def _keep(self, story: Story, ledger: list[dict[str, Any]], told: list[str]) -> None:
        """Write down the whole story of a run with which something is wrong."""
        facts: dict[str, Any] = {"told": told, "how": self.how, "deaths": self.deaths, "ledger": ledger}
        facts |= {"left_to_one_ms": self.left_to_one_ms, "silence_ms": self.silence_ms}
        facts |= {part: getattr(story, part) for part in ("record", "events", "accounts", "attempts")}
        (self.arena.folder / f"story-{story.run_id}.json").write_text(json.dumps(facts, indent=1))

    async def keep_stories(self) -> None:
        """Write down every run's, to find out what was slow."""
        for run_id in self.inputs:
            story = await read_story(self.client.client, self.client.keyspace, run_id)
            self._keep(story, self.entries(run_id=run_id), ["slow"])

    async def clear_away(self) -> None:
        """After a round that failed: end its runs, so that the next round shows what is wrong with itself alone."""
        self.open_gates()
        for run_id in self.inputs:
            with suppress(FlujoError, ResultTimeoutError):
                await self.client.run(run_id).cancel()
                await self.client.reader.wait(run_id, 5)

    async def _left_over(self) -> list[str]:
        """What is left once the last wake-ups and copies of messages have been taken."""
        told: list[str] = []
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            told = await left_over(self.client.client, self.client.keyspace, self.inputs)
            waiting = {queue: await self.arena.broker.waiting(queue) for queue in QUEUES}
            told += [f"I7 {count} messages wait in {queue}" for queue, count in waiting.items() if count]
            if not told:
                break
            await asyncio.sleep(0.2)
        return told

    @asynccontextmanager
    async def accounts_watched(self) -> AsyncIterator[None]:
        """Look at the runs' accounts again and again: they must add up at every moment."""

        over = asyncio.Event()

        async def watch() -> None:
            while not over.is_set():
                for run_id in list(self.inputs):
                    with suppress(aioredis.RedisError, OSError):
                        story = await read_story(self.client.client, self.client.keyspace, run_id)
                        self.violations += judge_accounts(story.accounts, run_id)
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.1)

        async def listen() -> None:
            while not over.is_set():
                asked = time.monotonic()
                with suppress(aioredis.RedisError, OSError):
                    await self.client.client.ping()
                self.silence_ms = max(self.silence_ms, round((time.monotonic() - asked) * 1000))
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 0.05)

        watching = asyncio.gather(watch(), listen())
        try:
            yield
        finally:
            over.set()  # no cancel: redis-py may swallow it
            await watching


async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
    """Until Redis answers, as a client does that submits again with the same id."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while True:
        try:
            return await work()
        except StateUnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


Inject = Callable[[Round], Awaitable[None]]

#: Lines of what is wrong with one round that are worth reading.
_MOST_LINES = 12


async def play(fault: str, inject: Inject, seed: int, arena: Arena) -> Outcome:
    """One round: make the arena whole, hurt it, and see what came of it."""
    began = time.monotonic()
    async with arena.connected() as client:
        await arena.make_whole(client)
        this = Round(fault, seed, arena, client)
        try:
            async with this.accounts_watched():
                await inject(this)
                await this.all_end()
            told = await this.judge()
        except (AssertionError, TimeoutError, FlujoError) as error:
            told = [f"I1 {str(error).splitlines()[0]}", *this.violations]
            (arena.folder / "story").write_text(str(error))
        if told:
            await this.clear_away()
        recovered = this.recoveries_ms()
        if this.left_to_one_ms is not None:
            recovered += goes_on_ms(this.entries(), this.left_to_one_ms)
        if max(recovered, default=0) > SLOW_MS and not this.unmanaged:
            await this.keep_stories()
    return Outcome(
        seed,
        len(this.inputs),
        told[:_MOST_LINES],
        recovered,
        this.kills,
        time.monotonic() - began,
        this.how,
        this.unmanaged,
        this.silence_ms,
    )


FaultTable = Mapping[str, tuple[str, Inject]]
