"""`WorkerProcess`: how a worker leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import redis

from flujo_client import Pipeline, Settings, Step
from flujo_client.cli.redis_server import RedisServer
from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.protocol.replies import SweepPage
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.wire import Wire
from flujo_worker.process import WorkerProcess
from flujo_worker.registry import Registry
from tests.lua.runs import a_dispatch, started_run, sweep_page


class _Working:
    """A worker process in the middle of a step that does not end."""

    def __init__(self, url: str) -> None:
        self.begun = asyncio.Event()
        self.step: Step[Any, Any] = Step.from_callable(self.wait, name="wait")
        registry = Registry()
        registry.add(Pipeline([self.step], name="p"))
        self.settings = Settings(url=url)
        self.process = WorkerProcess(self.settings, registry, 1)
        self.wire = Wire(url)
        self.scripts = Scripts(ScriptCaller(self.wire), Keyspace(self.settings.namespace))

    async def wait(self, number: int) -> int:
        self.begun.set()
        await asyncio.Event().wait()
        return number

    async def start(self) -> asyncio.Task[None]:
        await started_run(self.scripts, a_dispatch("0"))
        await self.scripts.commands.execute(
            "HSET", self.scripts.keyspace.run("r1").attempts, "0|task", self._task_record()
        )
        await self.process.open()
        ref = StepRef(run_id="r1", path="0", attempt=1, function=self.step.function, owner=POOL)
        message = StepMessage(queue="q", steps=(ref,))
        task = asyncio.create_task(self.process.handle(message, lambda ref: None, lambda ref, end: None))
        await asyncio.wait_for(self.begun.wait(), 30)
        return task

    def _task_record(self) -> bytes:
        step = self.step.to_leaf().model_dump_json()
        return f'{{"pipeline": "p", "step": {step}, "expression": "input"}}'.encode()

    async def sweep(self) -> SweepPage:
        page = await sweep_page(self.scripts)
        assert page is not None
        return page

    async def incarnations(self) -> list[bytes]:
        key = self.scripts.keyspace.shard("incarnations")
        found: list[bytes] = await self.scripts.commands.execute("ZRANGE", key, 0, -1)
        return [name for name in found if name != b"w1"]  # w1 is the test's own


async def test_a_worker_that_leaves_with_nothing_in_hand_is_forgotten_at_once(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        working = _Working(server.url)
        task = await working.start()
        await working.process.wind_up(0)
        await task

        await working.process.close()

        assert await working.incarnations() == []
        await working.wire.close()


async def test_a_lease_that_a_leaving_worker_could_not_give_back_is_found_by_the_sweep(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as plain:
        working = _Working(server.url)
        task = await working.start()
        await working.sweep()
        plain.config_set("maxmemory", 1)  # Redis takes nothing any more

        handing_over = asyncio.create_task(working.process.wind_up(0))
        await asyncio.wait([handing_over], timeout=0.2)
        await working.process.close()
        task.cancel()
        plain.config_set("maxmemory", 0)

        (incarnation,) = await working.incarnations()
        await working.scripts.register("incarnations", incarnation.decode(), -1, 0)  # its deadline has come
        assert (await working.sweep()).dead_incarnations == [incarnation.decode()]
        assert not await working.scripts.bury("incarnations", incarnation.decode(), 0), "it still holds a lease"
        await asyncio.gather(task, handing_over, return_exceptions=True)
        await working.wire.close()
