"""`Engine`: what carries runs, a fleet behind Redis or this process alone; and what keeps its runs in a state backend."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any, Protocol

from flujo_client.archive.backend import StateBackend
from flujo_client.archive.dump import RunDumps
from flujo_client.archiver import RunArchiver
from flujo_client.events import RunReader
from flujo_client.execution.manager import ExecutionManager
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.specs import SpecStore
from flujo_client.state import StateManager
from flujo_client.traces import TraceReader

__all__ = ["Engine", "make_archiver"]


class Engine(Protocol):
    """What carries runs: a fleet behind Redis, or this process alone.

    Attributes:
        redis: For commands; `blocking` for reads that wait.
    """

    redis: Any
    blocking: Any
    keyspace: Keyspace
    scripts: Scripts
    specs: SpecStore
    state: StateManager
    manager: ExecutionManager

    @property
    def broken(self) -> asyncio.Future[None]:
        """Fails when the engine's manager does; never has a result."""

    @property
    def archives(self) -> bool:
        """Whether its managers keep the runs that have ended."""

    @property
    def codec(self) -> PayloadCodec:
        """Of the payloads."""

    @property
    def owner(self) -> str:
        """Whose runs the engine's manager drives."""

    async def open(self) -> None:
        """Make it ready on the running loop."""

    async def make_durable(self) -> None:
        """Wait until what was answered so far may be shown; see `AsyncFlujoClient.make_durable`."""

    def telling_stalls(self, run_id: str) -> AbstractContextManager[None]:
        """While it is entered: logs what a run waits for that does not come by itself."""

    async def adopt(self, run_id: str) -> None:
        """Drive a run from here on, unless another caller does."""

    async def forget(self, run_id: str) -> None:
        """A run has ended that nobody can name."""

    async def retain(self, run_id: str) -> None:
        """A run has ended that somebody may ask for again."""

    async def abandon(self, run_id: str) -> None:
        """A run that nobody can name has lost its caller before its end."""

    async def close(self) -> None:
        """Let go of everything."""


def make_archiver(engine: Engine, backend: StateBackend, pipeline_id: str | None) -> RunArchiver:
    """What keeps an engine's runs in a state backend, under this id of their pipeline."""
    scripts, codec, specs = engine.scripts, engine.codec, engine.specs
    reader = RunReader(engine.scripts.commands, engine.blocking, engine.keyspace, codec)
    return RunArchiver(
        engine.state, reader, TraceReader(scripts, codec, specs), RunDumps(scripts, codec, specs), backend, pipeline_id
    )
