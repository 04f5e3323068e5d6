"""`WorkerProcess`: what one process of a pool consists of. Made after a fork, on the loop that runs its steps."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections.abc import Callable
from typing import Any

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.connection import agree_on_shards, check_server, connect, hash_reader
from flujo_client.protocol.errors import FlujoError, StateUnavailableError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.sealing import make_codec
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import LATEST
from flujo_client.protocol.spec_text import spec_text
from flujo_client.protocol.tracing import flush_sdk
from flujo_client.protocol.wire import Wire
from flujo_worker.attempt import AttemptEnd
from flujo_worker.bodies import SyncBodies
from flujo_worker.coordinator import StepCoordinator
from flujo_worker.hooks import worker_hooks
from flujo_worker.lease import RENEW_EVERY_S, Incarnation, LeaseKeeper
from flujo_worker.registry import Registry
from flujo_worker.watchdog import LoopWatchdog

__all__ = ["WorkerProcess", "publish_specs"]

logger = logging.getLogger(__name__)

_REGISTER_TIMEOUT_S = 10.0

#: What the exporter gets for the last spans of a process that ends under a body.
_FLUSH_S = 3.0

#: The TTL of a process that leaves: its deadline is past at once.
_GONE_MS = -1


class WorkerProcess:
    """A coordinator, its connection, and the lease that keeps both alive in Redis' eyes.

    Args:
        settings: Of the installation.
        registry: What this worker can run.
        slots: Attempts at once; a packed message waits for them step by step.
    """

    def __init__(self, settings: Settings, registry: Registry, slots: int) -> None:
        self._settings = settings
        self._registry = registry
        self._slots = asyncio.Semaphore(slots)
        self._incarnation = Incarnation()
        self._keyspace = Keyspace(settings.namespace, settings.shards)
        self._wire = Wire(settings.state_url)
        self._scripts = Scripts(ScriptCaller(self._wire), self._keyspace)
        self._coordinator: StepCoordinator | None = None
        self._stopping = False
        self._under_way: set[asyncio.Task[Any]] = set()
        self._keeps_leases = False
        self._unfit = False
        self._bodies = SyncBodies(slots, self._give_up)
        self._watchdog: LoopWatchdog | None = None
        self._lease = LeaseKeeper(
            self._connect_lease,
            self._incarnation,
            self._keyspace.shards,
            registry.functions(),
            self._give_up,
            self._watch,
        )

    def _connect_lease(self) -> tuple[Scripts, Callable[[], Any]]:
        wire = Wire(self._settings.state_url)
        return Scripts(ScriptCaller(wire), self._keyspace), wire.close

    async def _watch(self, scripts: Scripts) -> None:
        if self._watchdog is not None:
            await self._watchdog.check(scripts)

    @property
    def renewals(self) -> int:
        """How often the lease was renewed, or tried to be."""
        return self._lease.tries

    async def open(self) -> None:
        """Connect and take a lease.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        self._coordinator = StepCoordinator(
            self._scripts,
            self._registry,
            make_codec(self._settings.max_payload_bytes, self._settings.sealing_keys),
            self._incarnation,
            namespace=self._settings.namespace,
            hooks=worker_hooks(self._registry),
            bodies=self._bodies,
            read_now=hash_reader(self._settings.state_url),
            strict_pricing=self._settings.strict_pricing,
            stream_max_bytes=self._settings.stream_max_bytes,
            messaging_system=self._settings.messaging_system,
            broker_holds_runs=self._settings.broker_holds_runs,
        )
        checks = math.ceil(self._settings.loop_stall_s / RENEW_EVERY_S)
        self._watchdog = LoopWatchdog(checks, self._coordinator.besides)
        self._lease.start()
        if not await asyncio.to_thread(self._lease.wait_registered, _REGISTER_TIMEOUT_S):
            raise StateUnavailableError("This worker could not register itself.", suggestion="Check that Redis is up.")

    async def handle(
        self,
        message: StepMessage,
        started: Callable[[StepRef], None],
        ended: Callable[[StepRef, AttemptEnd], None],
    ) -> None:
        """Run the attempts of a message, all at once as far as there are slots.

        What Redis cannot answer for now is left to the journal; nothing is raised.

        Args:
            started: Called when an attempt gets its slot.
            ended: Called when it has ended.
        """
        alone, task = len(message.steps) == 1, asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        try:
            if alone:  # no task of its own: that would be one more turn of the loop
                await self._handle_one(message.steps[0], message, alone, started, ended)
            else:
                await asyncio.gather(*(self._handle_one(ref, message, alone, started, ended) for ref in message.steps))
        finally:
            self._under_way.discard(task)

    async def _handle_one(
        self,
        ref: StepRef,
        message: StepMessage,
        alone: bool,
        started: Callable[[StepRef], None],
        ended: Callable[[StepRef, AttemptEnd], None],
    ) -> None:
        assert self._coordinator is not None
        async with self._slots:
            if self._stopping:
                ended(ref, AttemptEnd("inactive"))
                return
            started(ref)
            try:
                end = await self._coordinator.execute_step(ref, message.queue, message.traceparent, alone=alone)
            except FlujoError as error:
                logger.warning(
                    "attempt not made, the journal brings it back",
                    extra={"run_id": ref.run_id, "path": ref.path, "error": str(error)},
                )
                end = AttemptEnd("inactive", error=error)
            ended(ref, end)

    def terminate(self, ref: StepRef) -> None:
        """End an attempt that somebody revoked."""
        if self._coordinator is not None:
            self._coordinator.terminate(ref)

    def _give_up(self) -> None:
        """Have Celery end this process as a SIGTERM does; whoever watches it starts another. Called from any thread."""
        if not self._unfit:
            self._unfit = True
            os.kill(os.getpid(), signal.SIGTERM)

    async def wind_up(self, grace_s: float) -> bool:
        """Start no further attempt, and hand what still runs after the grace over to other workers.

        Args:
            grace_s: What running steps get. None, if the lease is renewed no more: others run them soon anyway.

        Returns:
            Whether nothing runs any more; if not, only `end` is left to do.
        """
        self._stopping = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=grace_s if self._lease.alive else 0)
        if self._coordinator is not None:
            self._keeps_leases = not await self._coordinator.hand_over()
        return not self._keeps_leases

    async def end(self) -> None:
        """Close; and end the process itself where something would keep it alive, or a supervisor must hear of it.

        A body that runs on ends with the process, and only then other workers may have its lease: it is renewed to the last.
        """
        if not self._keeps_leases:
            await self.close()
        if not (self._keeps_leases or self._unfit or self._bodies.abandoned):
            return
        logger.warning("this process ends now", extra={"abandoned": self._bodies.abandoned, "unfit": self._unfit})
        await asyncio.wait([asyncio.ensure_future(asyncio.to_thread(flush_sdk))], timeout=_FLUSH_S)
        logging.shutdown()
        os._exit(1 if self._unfit else 0)

    async def close(self) -> None:
        """Leave and disconnect. A lease that could not be settled is left to the sweep, which takes it as after a death."""
        await asyncio.to_thread(self._lease.stop)
        try:
            await self._leave()
        except FlujoError as error:  # what it holds is taken when its deadline is over
            logger.warning("left without a word", extra={"incarnation": self._incarnation.id, "error": str(error)})
        await self._wire.close()

    async def _leave(self) -> None:
        for shard in range(self._keyspace.shards):
            await self._scripts.register("incarnations", self._incarnation.id, _GONE_MS, shard)
            await self._scripts.bury("incarnations", self._incarnation.id, shard)


async def publish_specs(settings: Settings, registry: Registry) -> None:
    """Check Redis and publish the specs that a worker can run; what submitting by name resolves against.

    Raises:
        StateUnavailableError: Redis does not answer.
        UnsafeRedisError: Redis may evict keys.
        ConfigurationError: A spec is too large, or the namespace has another number of shards.
    """
    client, wire = connect(settings.state_url), Wire(settings.state_url)
    try:
        await check_server(client, settings.state_url)
        scripts = Scripts(ScriptCaller(wire), Keyspace(settings.namespace, settings.shards))
        await agree_on_shards(client, scripts.keyspace)
        for spec in registry.specs():
            version = "" if spec.pipeline_version == LATEST else spec.pipeline_version
            await scripts.publish_spec(spec.name, spec.content_hash, spec_text(spec), version)
    finally:
        await client.aclose()
        await wire.close()
