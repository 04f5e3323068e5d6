"""`QueuedEngine`: a manager in the caller, for runs whose steps go to a fleet."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from typing import Any

from flujo_client.archive.backend import StateBackend
from flujo_client.archive.opening import close_backend, open_backend
from flujo_client.client import AsyncFlujoClient
from flujo_client.execution.fleet import Fleet
from flujo_client.execution.manager import ExecutionManager, RunObserver
from flujo_client.execution.service import ManagerService
from flujo_client.protocol.errors import ExecutionError, FlujoError
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.wire import Wire
from flujo_client.publisher import make_publisher

__all__ = ["QueuedEngine"]

logger = logging.getLogger(__name__)


class QueuedEngine:
    """Connections, a manager and its service, on the running event loop.

    Args:
        settings: Of the installation.
        serves_pool: Whether it drives the pool's runs: `flujo manager`; if not, those that it submits.
        observer: Hooks of the caller.
        backend: Keeps the runs that have ended; owned by the caller. Default: that of FLUJO_STATE_URI, if it is set.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        serves_pool: bool,
        observer: RunObserver | None = None,
        backend: StateBackend | None = None,
    ) -> None:
        self.client = client = AsyncFlujoClient(settings=settings)
        self.redis, self.blocking, self.keyspace = client.client, client.blocking, client.keyspace
        self.codec, self.scripts, self.specs, self.state = client.codec, client.scripts, client.specs, client.state
        self._publisher = make_publisher(settings)
        self._inbox_wires = [Wire(settings.state_url) for _ in range(settings.shards)]
        self.manager = ExecutionManager(
            self.client.state,
            self._publisher,
            retention_ms=settings.retention_s * 1000,
            observer=observer,
            fleet=Fleet(client.scripts.commands, client.keyspace),
        )
        self.service = ManagerService(
            self._inbox_wires,
            self.manager,
            self.client.state,
            self._publisher,
            serves_pool=serves_pool,
        )
        self.broken: asyncio.Future[None]
        self._own_backend = None if backend or settings.state_uri is None else open_backend(settings.state_uri)
        kept_by = backend or self._own_backend
        self._archiver = None if kept_by is None else client.archiver(kept_by)
        self._archiving: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[Any] | None = None

    @property
    def archives(self) -> bool:
        """Yes: every manager of the fleet that has a backend does."""
        return True

    @property
    def owner(self) -> str:
        """The manager in the caller."""
        return self.service.manager_id

    async def open(self) -> None:
        """Check Redis, announce the manager and start serving.

        Raises:
            StateUnavailableError, UnsafeRedisError, SettingsError: As `AsyncFlujoClient.check`.
        """
        self.broken = asyncio.get_running_loop().create_future()
        await self.client.check()
        await self.service.announce()
        self._serving = asyncio.create_task(self.service.serve())
        self._serving.add_done_callback(self._stopped)
        if self._archiver is not None:
            self._archiving = asyncio.create_task(self._archiver.serve(self.service.manager_id))

    def _stopped(self, serving: asyncio.Task[Any]) -> None:
        """Nobody may wait for a manager that is gone."""
        if not serving.cancelled() and (error := serving.exception()) is not None and not self.broken.done():
            failure = ExecutionError(
                f"The manager of this process failed: {error!r}.",
                suggestion="Its runs go to the pool; call again with the same run_id to follow one.",
                cause=error,
            )
            self.broken.set_exception(failure)
            self.broken.exception()  # it counts as seen where nobody waits

    async def make_durable(self) -> None:
        """See `AsyncFlujoClient.make_durable`."""
        await self.client.make_durable()

    def telling_stalls(self, run_id: str) -> AbstractContextManager[None]:
        """While it is entered: logs what a run waits for that does not come by itself; see `StallWatch`."""
        return self.client.stalls.telling(run_id)

    async def adopt(self, run_id: str) -> None:
        """Drive a run from here on, unless another caller does."""
        owner = await self.client.state.owner_of(run_id)
        if owner != self.service.manager_id:
            await self.client.scripts.adopt(run_id, owner, self.service.manager_id)

    async def wait(self) -> None:
        """Serve until cancelled."""
        if self._serving is not None:
            await self._serving

    async def forget(self, run_id: str) -> None:
        """Nothing: the run's retention ends it."""

    async def retain(self, run_id: str) -> None:
        """Nothing: the run's retention ends it."""

    async def abandon(self, run_id: str) -> None:
        """Nothing: the run is durable and goes on, here or with the pool."""

    async def close(self) -> None:
        """Stop serving, hand the own runs to the pool, and disconnect."""
        if self._archiving is not None and self._archiver is not None:
            self._archiver.stop()
            self._archiving.cancel()
            await asyncio.wait([self._archiving])
        if self._own_backend is not None:
            await close_backend(self._own_backend)
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
            try:
                await self.service.leave()
            except FlujoError as error:
                logger.warning("left without a word, a sweep takes the runs over", extra={"error": str(error)})
        await self._publisher.close()
        for wire in self._inbox_wires:
            await wire.close()
        await self.client.close()
