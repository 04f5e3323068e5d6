"""Deeds of clients, of a caller and of an operator for the sweep of crash points: done by a process that dies, then again.

`python -m tests.faults.deeds resume asking_far some-run`: one deed, in a process of its own.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from flujo_client import Account, AsyncFlujoClient, Flujo
from flujo_client.protocol.errors import ResumeError, UnknownAccountError
from tests.faults.kinds import unpublished
from tests.faults.workload import LIMIT

__all__ = ["DEEDS", "PERSON"]

#: Who answers.
PERSON = "somebody"


async def create_run(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    await client.submit(pipeline, {}, run_id=run_id, usage_limits=LIMIT)


async def cancel(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    run = await client.submit(pipeline, {}, run_id=run_id, usage_limits=LIMIT)
    await run.cancel()


async def resume(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    """Answer; whoever does so again may be told that somebody has."""
    with suppress(ResumeError):
        await client.run(run_id).resume({"by": PERSON}, token="1")


async def restore(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    await client.fork(run_id, "1", new_run_id=f"{run_id}-fork")


async def revive(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    """Go on without a run's background step."""
    (task,) = await client.run(run_id).background_tasks()
    await client.run(run_id).cancel_background(task.task_id)


async def keep_spec(client: AsyncFlujoClient, pipeline: str, run_id: str) -> None:
    """A caller runs a pipeline that no worker has published, though each knows its steps."""
    async with Flujo(unpublished(run_id), settings=client.settings, usage_limits=LIMIT) as runner:
        await runner.run_async({}, run_id=run_id)


async def define_account(client: AsyncFlujoClient, pipeline: str, name: str) -> None:
    await client.accounts.define(Account(name=name, slots=3, when_exhausted="wait"))


async def drop_account(client: AsyncFlujoClient, pipeline: str, name: str) -> None:
    with suppress(UnknownAccountError):
        await client.accounts.drop(name)


async def hold_back(client: AsyncFlujoClient, pipeline: str, name: str) -> None:
    await client.accounts.hold_back(name, timedelta(seconds=1))


DEEDS: dict[str, Callable[[AsyncFlujoClient, str, str], Awaitable[None]]] = {
    deed.__name__: deed
    for deed in (create_run, cancel, resume, restore, revive, keep_spec, define_account, drop_account, hold_back)
}


async def main(deed: str, pipeline: str, name: str) -> None:
    async with AsyncFlujoClient() as client:
        await DEEDS[deed](client, pipeline, name)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
