"""The in-process mode: manager, coordinator and a Redis of its own on the caller's event loop. For tests and notebooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flujo_client.execution.manager import ExecutionManager, RunObserver
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Prepared, StepMessage
from flujo_client.protocol.payloads import LiveCodec
from flujo_client.protocol.replies import Claim
from flujo_client.protocol.scripts import Scripts
from flujo_client.state import StateManager
from flujo_worker.bodies import SyncBodies
from flujo_worker.coordinator import StepCoordinator
from flujo_worker.hooks import worker_hooks
from flujo_worker.lease import Incarnation
from flujo_worker.memory_redis import MemoryRedis
from flujo_worker.memory_store import MemoryStore
from flujo_worker.registry import Registry

__all__ = ["EmbeddedEngine", "EmbeddedMemory"]

#: Sync steps with a timeout at once; others run on the caller's loop.
_SYNC_SLOTS = 500

#: Wake-ups that one step's end takes: its own, and those that came with it.
_SHARE = 100

_EVERY = 2**31

#: What a timer may run ahead of the store's clock, s.
_TIMER_SLACK_S = 0.005
_FOR_EVER_MS = 10 * 365 * 86_400_000


class _LocalPublisher:
    """Runs what it is given, on this loop."""

    beside_runs = False

    def __init__(self, execute: Callable[[StepMessage], None]) -> None:
        self._execute = execute

    def prepare(self, message: StepMessage) -> Prepared:
        """See `Publisher.prepare`."""
        return Prepared(message.queue, message)

    async def publish(self, messages: Sequence[Prepared]) -> None:
        """See `Publisher.publish`."""
        for prepared in messages:
            self._execute(prepared.message)

    async def depth(self, queue: str) -> int:
        """Nothing ever waits."""
        return 0

    async def close(self) -> None:
        """Nothing is open."""


class EmbeddedMemory:
    """What the runs of one caller leave behind, for as long as it lives: event loops come and go, results stay readable."""

    def __init__(self) -> None:
        self.redis = MemoryRedis(MemoryStore())
        self.codec = LiveCodec()
        self.retained: dict[str, float] = {}  # when runs that somebody may ask for were over, by their id; oldest first


class EmbeddedEngine:
    """Everything that a run needs, in this process and on this event loop.

    The same manager, scripts and coordinator as on a fleet; payloads stay live objects.

    Args:
        registry: What may be run; shared by all runs of the engine.
        observer: Hooks of the caller.
        memory: Of the engine before it, whose runs are then known; default: a new one.
        retention_ms: How long finished runs stay readable.
        strict_pricing: An agent's tokens without a price fail the run.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        observer: RunObserver | None = None,
        memory: EmbeddedMemory | None = None,
        retention_ms: int = 3_600_000,
        strict_pricing: bool = False,
    ) -> None:
        memory = memory or EmbeddedMemory()
        self.redis = self.blocking = memory.redis
        self.keyspace = Keyspace("flujo")
        self.codec = memory.codec
        self.owner = POOL
        self.archives = False
        self.scripts = Scripts(ScriptCaller(self.redis), self.keyspace)
        self.state = StateManager(self.scripts, self.codec)
        self.specs = self.state.specs
        self._incarnation = Incarnation(_FOR_EVER_MS)
        self._bodies = SyncBodies(_SYNC_SLOTS, exhausted=_nothing)
        self.coordinator = StepCoordinator(
            self.scripts,
            registry,
            self.codec,
            self._incarnation,
            namespace="flujo",
            hooks=worker_hooks(registry),
            bodies=self._bodies,
            read_now=memory.redis.read_hash,
            live=True,
            strict_pricing=strict_pricing,
        )
        self.manager = ExecutionManager(
            self.state,
            _LocalPublisher(self._execute),
            retention_ms=retention_ms,
            observer=observer,
            on_failure=self._break,
        )
        self.broken: asyncio.Future[None]
        self._steps: dict[asyncio.Task[None], str] = {}
        self._watched: set[bytes] = set()  # named accounts with a timer
        self._looking: asyncio.Task[None] | None = None
        self._retained = memory.retained
        self._retention_ms = retention_ms

    async def open(self) -> None:
        """Register the one incarnation."""
        self.broken = asyncio.get_running_loop().create_future()
        await self.scripts.register("incarnations", self._incarnation.id, self._incarnation.ttl_ms, 0)

    def _execute(self, message: StepMessage) -> None:
        for ref in message.steps:
            task = asyncio.create_task(self._step(ref, message))
            self._steps[task] = ref.run_id
            task.add_done_callback(self._judge_step)

    def _judge_step(self, task: asyncio.Task[None]) -> None:
        del self._steps[task]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        """Nobody else will go on with what failed here: whoever waits is told."""
        if not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()  # it counts as seen where nobody waits

    async def _step(self, ref: Any, message: StepMessage) -> None:
        end = await self.coordinator.execute_step(ref, message.queue, message.traceparent)
        entries = await self.redis.execute("LPOP", self.keyspace.inbox(POOL, 0), _SHARE)
        for entry in entries or ():
            self.manager.hear(entry)
        if all(entry.startswith(b"@") for entry in entries or ()):
            self.manager.wake(ref.run_id)
        if end.outcome == "delayed":
            await self._watch_accounts()

    async def _watch_accounts(self) -> None:
        """Call who waits for named accounts when there is room: what a sweep does on a fleet."""
        key, loop = self.keyspace.shard("named_due"), asyncio.get_running_loop()
        for name in await self.redis.execute("ZRANGE", key, 0, -1):
            left_s = float(await self.redis.execute("ZSCORE", key, name)) / 1000 - time.time()
            if left_s <= 0:
                await self.manager.outbox.call_waiters(name.decode())
                loop.call_soon(self._look_at_accounts)
            elif name not in self._watched:
                self._watched.add(name)
                loop.call_later(left_s + _TIMER_SLACK_S, self._look_at_accounts, name)

    def _look_at_accounts(self, name: bytes = b"") -> None:
        self._watched.discard(name)
        self._looking = asyncio.create_task(self._watch_accounts())

    async def make_durable(self) -> None:
        """Nothing: the runs of a process end with it."""

    def telling_stalls(self, run_id: str) -> AbstractContextManager[None]:
        """Nothing: all that a run in process needs is here."""
        return nullcontext()

    async def adopt(self, run_id: str) -> None:
        """Set the alarms of a run that waits for an answer: those of the loop, or the process, where it paused are gone."""
        await self.manager.set_alarms_of(run_id)

    async def forget(self, run_id: str) -> None:
        """Let go of a run that has ended and that nobody can name: its records and its live values."""
        await self._stop([task for task, name in self._steps.items() if name == run_id])
        await self.manager.rest(run_id)
        keys, held = self.keyspace.run(run_id), self.keyspace.held(self._incarnation.id, 0)
        self.codec.forget((await self.redis.hgetall(keys.payloads)).values())
        entries = await self.redis.execute("XRANGE", keys.events, "0-0", "+", "COUNT", _EVERY)
        self.codec.forget(fields[-1] for _, fields in entries if fields[1] == b"chunk")
        for member in await self.redis.execute("ZRANGE", self.keyspace.shard("dispatches"), 0, -1):
            if member.startswith(run_id.encode() + b" "):  # the run ended before anybody took them
                await self.scripts.redispatch(member.decode(), 0, 0)
        await self.redis.execute(
            "DEL", keys.run, keys.nodes, keys.attempts, keys.accounts, keys.payloads, keys.events, keys.waiters
        )
        for member in await self.redis.execute("ZRANGE", held, 0, -1):
            if member.decode().startswith(f"{run_id} "):
                await self.redis.execute("ZREM", held, member)
        for name in ("active", "cancelled", "dirty", "finished", "unarchived"):
            await self.redis.execute("ZREM", self.keyspace.shard(name), run_id)
        await self.redis.execute("DEL", self.keyspace.inbox(POOL, 0))  # wake-ups that no process waits for

    async def retain(self, run_id: str) -> None:
        """Keep a run that has ended for its retention; let go of those whose retention is over."""
        now = time.monotonic()
        self._retained.pop(run_id, None)
        self._retained[run_id] = now
        over = [name for name, ended in self._retained.items() if now - ended > self._retention_ms / 1000]
        for name in over:
            del self._retained[name]
            await self.forget(name)

    async def abandon(self, run_id: str) -> None:
        """Cancel a run whose caller went away, and forget it."""
        await self.scripts.cancel(run_id, POOL, "its caller went away")
        await self._stop([task for task, name in self._steps.items() if name == run_id])
        self.manager.wake(run_id)
        keys = self.keyspace.run(run_id)
        while await self.redis.exists(keys.run) and await self.redis.hget(keys.run, "final") is None:
            last = await self.redis.hget(keys.run, "last_event")
            await self.redis.xread({keys.events: (last or b"0-0").decode()}, count=1, block=1_000)
        await self.forget(run_id)

    async def _stop(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Cancel what runs, so that the next engine on this memory goes on with it."""
        await self._stop(list(self._steps))
        self._bodies.close()
        held = self.keyspace.held(self._incarnation.id, 0)
        for member in await self.redis.execute("ZRANGE", held, 0, -1):
            run_id, path, attempt, nonce = member.decode().split(" ")
            claim = Claim(run_id, path, int(attempt), nonce, self._incarnation.id, queue="")
            await self.scripts.lose(claim, POOL, "handed_over", {})
        await self.manager.settle()
        await self.redis.execute("ZREM", self.keyspace.shard("incarnations"), self._incarnation.id)


def _nothing() -> None:
    """The caller's process is not ours to end."""
