"""A small installation on one event loop: two managers, two workers, a broker that errs, and one Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from flujo_client import Pipeline, Step, StepRun
from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution.service import ManagerService
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Prepared, StepMessage
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.queues import DEFAULT_QUEUE, broker_queue
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.submission import submit_run
from flujo_client.state import StateManager
from flujo_worker.bodies import SyncBodies
from flujo_worker.coordinator import StepCoordinator
from flujo_worker.hooks import worker_hooks
from flujo_worker.lease import Incarnation, LeaseKeeper
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.registry import Registry
from tests.faults.oracle import Excuses, Story, judge_accounts, judge_run, parts_of
from tests.faults.workload import TOKENS_BILLED, TOKENS_EXPECTED, Baton, done, is_even, passed_on
from tests.simulation.clock import VirtualLoop
from tests.simulation.store import SimulatedStore

__all__ = ["Fault", "World"]

KEYSPACE = Keyspace("flujo")
CODEC = JsonCodec(2**20)
LIMITS = UsageLimits(total_tokens_limit=60 * TOKENS_EXPECTED)

#: Where commits publish what was decided ahead.
BROKER_LIST = broker_queue("flujo", DEFAULT_QUEUE)

#: Virtual seconds within which every run must have ended.
END_S = 180.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong once.

    Attributes:
        kind: `kill` and `stall` of a process, `repeat` of a command whose reply was lost, `lose`, `copy` and `delay`
            of a message, `cancel` of a run.
        target: Which process, or run, of two.
        nth: At which of its commands, or at which message; of a cancel: after how many tenths of a second.
        amount: Copies, or half seconds.
    """

    kind: str
    target: int
    nth: int
    amount: int


class Process:
    """A manager or a worker as Redis sees it: a connection whose every command may be the last."""

    def __init__(self, world: World, name: str, pid: int) -> None:
        self.world = world
        self.name = name
        self.pid = pid
        self.dead = False
        self.commands = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in this process."""
        token = CURRENT.set(self)
        task = asyncio.get_running_loop().create_task(work)
        CURRENT.reset(token)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.world.told.append(f"I11 {self.name} fell over: {task.exception()!r}")

    async def execute(self, *words: str | bytes | int) -> Any:
        """See `Commands.execute`."""
        await self.lives()
        self.commands += 1
        faults = self.world.faults_at(self)
        await self.world.latency()
        await self.lives()
        if any(fault.kind == "kill" and fault.amount % 2 == 0 for fault in faults):
            await self.die()
        reply = await self.world.answer(words)
        for fault in faults:
            if fault.kind == "repeat":
                reply = await self.world.answer(words)
            elif fault.kind == "kill":
                await self.die()
            elif fault.kind == "stall":
                self.world.excused.add(self.pid)
                await asyncio.sleep(fault.amount / 2)
        await self.world.latency()
        return reply

    async def die(self) -> None:
        """From now on nothing of it runs; another starts a second later."""
        if not self.dead:
            self.dead = True
            self.world.excused.add(self.pid)
            asyncio.get_running_loop().call_later(1.0, self.world.replace, self.name)
        await self.lives()

    async def lives(self) -> None:
        """Returns only while it does."""
        if self.world.over:
            raise asyncio.CancelledError
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """See `Commands.close`."""


CURRENT: ContextVar[Process] = ContextVar("CURRENT")


async def _work(batons: Sequence[Baton], run: StepRun) -> Baton:
    process = CURRENT.get()
    process.world.note("started", run, process.pid, saw=[baton.maker for baton in batons])
    await process.world.latency()
    await process.lives()
    run.usage.add(tokens=TOKENS_BILLED)
    process.world.note("bill", run, process.pid, tokens=TOKENS_BILLED)
    await process.world.latency()
    await process.lives()
    return passed_on(batons, run)


async def carry(baton: Baton, run: StepRun) -> Baton:
    return await _work([baton], run)


async def join(batons: dict[str, Baton], run: StepRun) -> Baton:
    return await _work(list(batons.values()), run)


async def _nobody_watches(scripts: Scripts) -> None:
    """The virtual loop never stands still."""


def _pipelines() -> list[Pipeline]:
    terms: dict[str, Any] = {"max_retries": 0, "expected_tokens": TOKENS_EXPECTED}
    carried: Any = Step.from_callable(carry, name="carry", **terms)
    joined: Any = Step.from_callable(join, name="join", **terms)
    branches: dict[str, Any] = {"a": carried, "b": carried >> carried, "c": carried}
    choice = Step.branch_on("choose", is_even, {True: carried, False: carried >> carried})
    return [
        Pipeline([carried] * 3, name="relay"),
        (carried >> Step.parallel("split", branches) >> joined).named("fork"),
        Pipeline([Step.loop_until("laps", carried >> carried, done, max_loops=6)], name="lap"),
        (carried >> choice >> carried).named("choice"),
    ]


REGISTRY = Registry()
SPECS = [REGISTRY.add(pipeline) for pipeline in _pipelines()]
BODIES = SyncBodies(1, exhausted=lambda: None)
REDIS = MemoryRedis(SimulatedStore(lambda: 0.0))


@dataclass
class World:
    """One schedule."""

    seed: int
    faults: Sequence[Fault]
    loop: VirtualLoop = field(default_factory=VirtualLoop)
    keyspace: Keyspace = KEYSPACE
    over: bool = False
    ledger: list[dict[str, Any]] = field(default_factory=list)
    excused: set[int] = field(default_factory=set)
    told: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.beside_runs = (
            self.seed % 2 == 0
        )  # every other time the broker is the Redis of the runs: commits publish ahead
        self.workers: dict[str, Process] = {}
        self.coordinators: dict[str, StepCoordinator] = {}
        self.waiting: list[StepMessage] = []
        self.published = 0
        self.pids = 0
        REDIS.store = SimulatedStore(self.loop.time)
        self.runs = {f"r{number}": SPECS[self.chance.randrange(len(SPECS))] for number in range(2)}

    def play(self) -> list[str]:
        """Run the schedule to its end; what is wrong, as the oracle tells it."""
        try:
            self.loop.run_until_complete(self._play())
            return self.told
        finally:
            self.over = True
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # dead processes never end
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    async def _play(self) -> None:
        for name in ("w0", "w1", "m0", "m1"):
            self.replace(name)
        client = Scripts(ScriptCaller(REDIS), self.keyspace)
        for spec in SPECS:
            await client.publish_spec(spec.name, spec.content_hash, spec.model_dump_json().encode())
        for run_id, spec in self.runs.items():
            await submit_run(client, CODEC, spec, {}, run_id=run_id, owner=POOL, limits=LIMITS)
        cancels = {f"r{fault.target}": fault.nth / 10 for fault in self.faults if fault.kind == "cancel"}
        for run_id, at_s in cancels.items():
            self.loop.call_later(at_s, self._cancel, client, run_id)
        deadline = self.loop.time() + END_S
        while self.loop.time() < deadline and not all([await self._is_over(run_id) for run_id in self.runs]):
            await asyncio.sleep(0.2)
        await asyncio.sleep(5)  # late copies, zombies' bills, burials
        for _ in range(90):  # what nobody wants any more is dropped when its time comes, within a minute
            if not REDIS.store.left_over():  # type: ignore[attr-defined]
                break
            await asyncio.sleep(1)
        for run_id in self.runs:
            ends = ("completed", "cancelled") if run_id in cancels else ("completed",)
            lines = [line for line in self.ledger if line["run_id"] == run_id]
            excuses = Excuses(self.excused, self.excused)
            self.told += judge_run(await self._story(run_id), lines, excuses, ends=ends)
        self.told += REDIS.store.left_over()  # type: ignore[attr-defined]

    def _cancel(self, client: Scripts, run_id: str) -> None:
        self.loop.create_task(client.cancel(run_id, POOL, "asked"))

    async def _is_over(self, run_id: str) -> bool:
        return bool(await REDIS.hget(self.keyspace.run(run_id).run, "final"))

    async def _story(self, run_id: str) -> Story:
        keys = self.keyspace.run(run_id)
        text = {
            name: {key.decode(): value.decode() for key, value in (await REDIS.hgetall(getattr(keys, name))).items()}
            for name in ("run", "accounts", "payloads")
        }
        entries = await REDIS.execute("XRANGE", keys.events, "(0-0", "+", "COUNT", 10_000)
        events = [
            (entry.decode(), dict(zip(*[(word.decode() for word in words[at::2]) for at in (0, 1)], strict=True)))
            for entry, words in entries
        ]
        payloads = {name: value.encode() for name, value in text["payloads"].items()}
        return Story(run_id, text["run"], events, parts_of(text["accounts"]), payloads)

    def replace(self, name: str) -> None:
        """Start a process under a name."""
        if self.over:
            return
        self.pids += 1
        process = Process(self, name, self.pids)
        process.spawn(self._work_on(process) if name.startswith("w") else self._manage(process))

    async def _work_on(self, process: Process) -> None:
        incarnation, scripts = Incarnation(clock=self.loop.time), Scripts(ScriptCaller(process), self.keyspace)
        keeper = LeaseKeeper(
            lambda: (scripts, process.close), incarnation, self.keyspace.shards, [], lambda: None, _nobody_watches
        )
        known = await keeper._register(scripts)
        self.coordinators[process.name] = StepCoordinator(
            scripts,
            REGISTRY,
            CODEC,
            incarnation,
            namespace="flujo",
            hooks=worker_hooks(REGISTRY),
            bodies=BODIES,
            read_now=REDIS.read_hash,
            broker_holds_runs=self.beside_runs,
        )
        self.workers[process.name] = process
        while True:
            await asyncio.sleep(0.5)
            if known != incarnation.id:
                known = await keeper._register(scripts)
            else:
                await keeper._renew(scripts, known)

    async def _manage(self, process: Process) -> None:
        state = StateManager(Scripts(ScriptCaller(process), self.keyspace), CODEC)
        manager = ExecutionManager(state, self, retention_ms=3_600_000)
        service = ManagerService([process] * self.keyspace.shards, manager, state, self, serves_pool=True)
        await service.announce()
        await service.serve()

    async def answer(self, words: Sequence[str | bytes | int]) -> Any:
        """What Redis replies. Every script is a boundary at which all accounts must add up."""
        if words[0] == "BLPOP":
            return await self._pop(str(words[1]))
        reply = await REDIS.execute(*words)
        if words[0] == "EVALSHA":
            for text in await REDIS.execute("LPOP", BROKER_LIST, 10) or ():  # what a commit has published
                self._take(StepMessage.model_validate_json(text))
            for run_id in self.runs:
                accounts = await REDIS.hgetall(self.keyspace.run(run_id).accounts)
                plain = {name.decode(): value.decode() for name, value in accounts.items()}
                self.told += judge_accounts(parts_of(plain), run_id)
        return reply

    async def _pop(self, key: str) -> Any:
        for _ in range(10):
            popped = await REDIS.execute("LPOP", key, 1)
            if popped:
                return [key.encode(), popped[0]]
            await asyncio.sleep(0.1)
        return None

    async def latency(self) -> None:
        """A command's way, or a step's work: mostly nothing, sometimes long enough for others to overtake."""
        draw = self.chance.random()
        await asyncio.sleep(0 if draw < 0.6 else draw * 0.03)

    def faults_at(self, process: Process) -> list[Fault]:
        """What goes wrong with a process at the command that it is about to send."""
        wanted = ("kill", "stall", "repeat")
        number = {"w0": 0, "w1": 1, "m0": 2, "m1": 3}[process.name]
        first = process.pid <= 4  # those that replace others live on
        found = [
            fault
            for fault in self.faults
            if first and fault.kind in wanted and fault.target == number and fault.nth == process.commands
        ]
        self.history += [f"{self.loop.time():.3f} {process.name}: {fault}" for fault in found]
        return found

    def prepare(self, message: StepMessage) -> Prepared:
        """See `Publisher.prepare`."""
        return Prepared(message.queue, message, message.model_dump_json())

    async def publish(self, messages: Sequence[Prepared]) -> None:
        """See `Publisher.publish`: the broker loses, copies and delays."""
        await CURRENT.get().lives()
        for prepared in messages:
            self._take(prepared.message)

    def _take(self, message: StepMessage) -> None:
        self.published += 1
        hit = [fault for fault in self.faults if fault.nth == self.published]
        copies = 1 + sum(fault.amount for fault in hit if fault.kind == "copy")
        late_s = sum(fault.amount / 2 for fault in hit if fault.kind == "delay")
        if any(fault.kind == "lose" for fault in hit):
            copies = 0
        for _ in range(copies):
            self.waiting.append(message)
            self.loop.call_later(late_s + self.chance.random() * 0.05, self._deliver, message)
        self.history += [f"{self.loop.time():.3f} message {self.published}: {fault}" for fault in hit]

    async def depth(self, queue: str) -> int:
        """See `Publisher.depth`."""
        return len(self.waiting)

    def _deliver(self, message: StepMessage) -> None:
        living = [name for name, process in self.workers.items() if not process.dead]
        if not living and not self.over:
            self.loop.call_later(0.1, self._deliver, message)
            return
        self.waiting.remove(message)
        name = self.chance.choice(living)
        for ref in message.steps:
            self.workers[name].spawn(self.coordinators[name].execute_step(ref, message.queue, message.traceparent))

    def note(self, kind: str, run: StepRun, pid: int, **facts: Any) -> None:
        """The ledger."""
        line = {"kind": kind, "run_id": run.run_id, "path": run.path, "attempt": run.attempt, "nonce": run.nonce}
        self.ledger.append(line | {"pid": pid, "at_ms": int(self.loop.time() * 1000), **facts})

    async def close(self) -> None:
        """See `Publisher.close`."""
