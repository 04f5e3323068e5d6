"""`LeaseKeeper`: keeps a worker process alive in Redis' eyes from a thread of its own, and brings back whom to cancel."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import uuid4

from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.keys import CAPABILITY_SET, LEASE_TTL_MS, POOL
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.replies import Claim, WorkerDead
from flujo_client.protocol.scripts import Scripts

__all__ = ["Incarnation", "LeaseKeeper"]

logger = logging.getLogger(__name__)

#: Between two renewals.
RENEW_EVERY_S = 0.5


class Incarnation:
    """The identity under which a process holds leases, and the claims it holds. A lock makes it safe for both its threads:

    the loop's, which claims and releases, and the lease's, which renews.

    Args:
        ttl_ms: How long a lease lasts without a renewal.
        clock: Of this process, s; it goes on while the process is stopped.
    """

    def __init__(self, ttl_ms: int = LEASE_TTL_MS, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl_ms = ttl_ms
        self.id = f"w{uuid4().hex[:12]}"
        self.clock = clock
        self._leased_until = math.inf
        self._claims: dict[str, Callable[[str], None]] = {}
        self._lock = threading.Lock()

    def hold(self, claim: Claim, cancel: Callable[[str], None]) -> None:
        """Note a claim before it is reserved. `cancel(reason)` is called from another thread."""
        with self._lock:
            self._claims[claim.member] = cancel

    def release(self, claim: Claim) -> None:
        """Forget a claim that is committed, lost or was never reserved."""
        with self._lock:
            self._claims.pop(claim.member, None)

    def claims(self) -> dict[str, Callable[[str], None]]:
        """The claims held now, by member."""
        with self._lock:
            return dict(self._claims)

    def leased(self, incarnation: str, asked: float) -> None:
        """Note that a name was registered or renewed.

        Args:
            asked: When Redis was asked, by this process' clock: its answer may have waited here for any time.
        """
        with self._lock:
            if self.id == incarnation:
                self._leased_until = asked + self.ttl_ms / 1000

    def holds(self, claim: Claim) -> bool:
        """Whether what was claimed is certainly still leased: under the name that this process has, which is not past its time."""
        with self._lock:
            return claim.incarnation == self.id and self.clock() <= self._leased_until

    def renamed(self, dead: str) -> None:
        """Take a new identity after the sweep buried `dead`; running attempts find out when they commit.

        Nothing happens if somebody else, on any thread, did it before: what is leased under a name must be renewed.
        """
        with self._lock:
            if self.id == dead:
                self.id = f"w{uuid4().hex[:12]}"


class LeaseKeeper:
    """Renews an incarnation every 0.5 s, whatever the process' event loop is doing.

    Args:
        connect: Makes scripts on a connection of the thread's own, and the coroutine function that closes it.
        incarnation: Whom to keep alive.
        shards: Of the namespace.
        functions: What the process can run, by reference.
        ended: Called in the thread if that ends without having been stopped, by a fault of ours: what the process runs from
            then on is given to others, so it must leave.
        watch: Called with every renewal, in the thread.
    """

    def __init__(
        self,
        connect: Callable[[], tuple[Scripts, Callable[[], Any]]],
        incarnation: Incarnation,
        shards: int,
        functions: Sequence[str],
        ended: Callable[[], None],
        watch: Callable[[Scripts], Awaitable[None]],
    ) -> None:
        self._connect = connect
        self._incarnation = incarnation
        self._shards = shards
        self._functions = sorted(functions)
        self._ended = ended
        self._watch = watch
        self.tries = 0  # to renew
        self._stop = threading.Event()
        self._registered = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flujo-lease", daemon=True)

    def start(self) -> None:
        """Start the thread. Call after a fork, never before."""
        self._thread.start()

    def wait_registered(self, timeout_s: float) -> bool:
        """Wait until the incarnation is registered; False if it is not in time."""
        return self._registered.wait(timeout_s)

    def stop(self) -> None:
        """End the thread. Nothing is renewed from then on; the incarnation stays in Redis until it leaves or is buried."""
        self._stop.set()
        self._thread.join(timeout=5)

    @property
    def alive(self) -> bool:
        """Whether the thread is running. Without it the process' leases are over within 2.5 s."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._renew_until_stopped())
        finally:
            if not self._stop.is_set():
                logger.critical("the lease is renewed no more", extra={"incarnation": self._incarnation.id})
                self._ended()

    async def _renew_until_stopped(self) -> None:
        scripts, close = self._connect()
        known = ""
        try:
            while not self._stop.is_set():
                self.tries += 1
                try:
                    if known != self._incarnation.id:
                        known = await self._register(scripts)
                    else:
                        await self._renew(scripts, known)
                    await self._watch(scripts)
                except StateUnavailableError as error:
                    logger.warning("lease not renewed, trying again", extra={"incarnation": known, "error": str(error)})
                await asyncio.to_thread(self._stop.wait, RENEW_EVERY_S)
        finally:
            await close()

    async def _register(self, scripts: Scripts) -> str:
        incarnation, asked = self._incarnation.id, self._incarnation.clock()
        for shard in range(self._shards):
            await scripts.register("incarnations", incarnation, LEASE_TTL_MS, shard)
        self._incarnation.leased(incarnation, asked)
        await self._advertise(scripts, incarnation)
        self._registered.set()
        return incarnation

    async def _advertise(self, scripts: Scripts, incarnation: str) -> None:
        """Say what this process can run. Many processes have the same set, so it is stored once."""
        text = json_bytes(self._functions)
        digest = hashlib.sha256(text).hexdigest()[:16]
        key = scripts.keyspace.shard("capabilities")
        await scripts.commands.execute("HSET", key, incarnation, digest, f"{CAPABILITY_SET}{digest}", text)

    async def _renew(self, scripts: Scripts, incarnation: str) -> None:
        """Renew the name that was registered on all shards; another that was taken meanwhile is not yet."""
        asked = self._incarnation.clock()
        for shard in range(self._shards):
            renewal = await scripts.renew(incarnation, LEASE_TTL_MS, shard)
            if isinstance(renewal, WorkerDead):
                logger.warning(
                    "this process was declared dead, going on under a new name", extra={"incarnation": incarnation}
                )
                self._incarnation.renamed(incarnation)
                return
            claims = self._incarnation.claims()
            for member in renewal.cancelled & claims.keys():
                claims[member]("run ended")
            for member in renewal.held - claims.keys():
                await self._give_back(scripts, member, incarnation)
        self._incarnation.leased(incarnation, asked)

    async def _give_back(self, scripts: Scripts, member: str, incarnation: str) -> None:
        """Return a lease that Redis booked but whose reply never came: it was not started."""
        run_id, path, attempt, nonce = member.split(" ")
        claim = Claim(run_id, path, int(attempt), nonce, incarnation, queue="")
        if await scripts.lose(claim, POOL, "stranger", {}):
            logger.warning(
                "gave back a lease that was never started", extra={"run_id": run_id, "path": path, "attempt": attempt}
            )
