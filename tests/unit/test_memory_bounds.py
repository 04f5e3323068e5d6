"""What a process remembers for its life stays bounded, however many runs, workers, steps and keys it sees."""

from __future__ import annotations

from typing import Any

import pydantic_core
import pytest
import redis

from flujo_client import Flujo, HumanInTheLoopStep, InMemoryBackend, Pipeline, RunStatus, step
from flujo_client import archiver as archiving
from flujo_client.dsl import cache
from flujo_client.execution.fleet import Fleet
from flujo_client.observer import HookObserver
from flujo_client.protocol import learned
from flujo_client.protocol.errors import HookFailedError
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.keys import CAPABILITY_SET, Keyspace
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec
from tests.unit.replay import sequence
from tests.unit.replay import step as step_spec


@step
async def double(number: int) -> int:
    return number * 2


async def test_an_archiver_remembers_nothing_of_runs_that_have_ended_kept_or_not() -> None:
    asking = Pipeline([double, HumanInTheLoopStep(name="ask", message_for_user="Go on?")])

    for deleted in (False, True):
        async with Flujo(asking, state_backend=InMemoryBackend(), delete_on_completion=deleted) as flujo:
            paused = await flujo.run_async(1, run_id="r")
            end = await flujo.resume_async(paused, "yes")
            archiver = flujo._driver.archiver
            assert archiver is not None

        assert end.status is RunStatus.COMPLETED
        assert (archiver._kept._kept, archiver._stopped) == ({}, {})


class Elsewhere(InMemoryBackend):
    """Another process has gone on with every run that this one has noted as `elsewhere`."""

    async def swap_state(self, run_id: str, expected: Any, state: Any) -> bool:
        return "elsewhere" not in expected and await super().swap_state(run_id, expected, state)


async def test_of_runs_that_went_on_elsewhere_an_archiver_remembers_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "_MOST_STOPPED", 2)
    asking = Pipeline([double, HumanInTheLoopStep(name="ask", message_for_user="Go on?")])

    async with Flujo(asking, state_backend=Elsewhere()) as flujo:
        engine = await flujo._opened()
        archiver = flujo._driver.archiver
        assert archiver is not None
        for number in range(4):
            await flujo.run_async(1, run_id=f"r{number}")
            archiver._kept.note(f"r{number}", {"status": "paused", "elsewhere": True})
            assert not await archiver.decided(f"r{number}")
        stopped = list(archiver._stopped)
        await engine.manager.settle()

    assert stopped == ["r2", "r3"]


async def test_functions_of_workers_that_left_are_forgotten(
    scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace
) -> None:
    spec = PipelineSpec(name="p", root=sequence(step_spec("a")))
    fleet = Fleet(scripts.commands, keyspace)
    for number in range(3):
        plain_redis.hset(keyspace.shard("capabilities"), f"w{number}", f"d{number}")
        functions = pydantic_core.to_json(["m:a", f"m:{number}"])
        plain_redis.hset(keyspace.shard("capabilities"), f"{CAPABILITY_SET}d{number}", functions)
        plain_redis.zadd(keyspace.shard("incarnations"), {f"w{number}": 2**52})
        plain_redis.zrem(keyspace.shard("incarnations"), f"w{number - 1}")
        fleet._read_at = float("-inf")
        assert await fleet.lacking(spec) == ()

    assert list(fleet._sets) == ["d2"]


async def test_what_was_learned_of_steps_is_kept_of_those_that_were_read_last(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "_MOST_KNOWN", 2)
    estimates = learned.LearnedEstimates(scripts)

    for number in range(4):
        spec = PipelineSpec(name=f"p{number}", root=sequence(step_spec("a", estimate_quantile=0.9)))
        assert await estimates.of(spec) == {}

    assert list(estimates._known) == ["flujo.p2.a", "flujo.p3.a"]


async def test_a_cache_of_the_process_forgets_what_was_set_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_MOST_ENTRIES", 2)
    kept = cache.InMemoryCache()

    for number in (1, 2, 1, 3):
        await kept.set(str(number), number)

    assert [await kept.get(str(number)) for number in (1, 2, 3)] == [1, None, 3]


async def test_of_a_run_that_nobody_waits_for_nothing_is_kept() -> None:
    observer = HookObserver(HookDispatcher(), HookDispatcher(), None)

    observer._blame("unasked", HookFailedError("a hook"))
    observer.expect("asked")
    observer._blame("asked", HookFailedError("a hook"))
    await observer.after_end("asked", {"run_id": "asked"})
    await observer.after_end("unasked", {"run_id": "unasked"})
    kept = list(observer._faults), list(observer._results)
    observer.forget("asked")

    assert kept == (["asked"], ["asked"])
    assert (observer._faults, observer._results, observer._ended, observer._starts) == ({}, {}, {}, {})


async def test_runs_that_have_ended_leave_nothing_with_their_manager() -> None:
    async with Flujo(Pipeline([double])) as flujo:
        for number in range(20):
            await flujo.run_async(number, run_id=f"r{number}")
        engine = await flujo._opened()
        manager, recent = engine.manager, engine.state.recent
        await manager.settle()

    left = (manager._driving, manager._drives, manager._undecided, recent._stored, recent._heard, recent._created)
    assert left == ({}, {}, {}, {}, {}, {})
