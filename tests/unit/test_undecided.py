"""A run that cannot be decided: it ends with a clear error after bounded tries, and nothing else is affected."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import Pipeline, Settings, Step
from flujo_client.engine import QueuedEngine
from flujo_client.execution.advance import _RULES
from flujo_client.execution.draft import Draft
from flujo_client.execution.undecided import MOST_TRIES, is_undecidable
from flujo_client.protocol.errors import ExecutionError, RunCancelledError, SchemaMismatchError
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.replies import Claim, Reserved
from flujo_client.protocol.submission import submit_run
from flujo_worker.embedded import EmbeddedEngine
from flujo_worker.registry import Registry


def _twice(number: int) -> int:
    return 2 * number


def _is_even(number: int, context: Any) -> bool:
    return number % 2 == 0


_STEP: Step[Any, Any] = Step.from_callable(_twice)
_PLAIN = Pipeline([_STEP], name="plain")
_CHOICE = Pipeline(
    [Step.branch_on("choice", _is_even, {True: Pipeline([_STEP]), False: Pipeline([_STEP])})], name="choice"
)


async def _serving(redis_url: str, namespace: str, *pipelines: Pipeline) -> QueuedEngine:
    engine = QueuedEngine(Settings(url=redis_url, namespace=namespace), serves_pool=True)
    for pipeline in pipelines:
        await engine.specs.keep(pipeline.to_spec(), "r1")
    await engine.open()
    await engine.scripts.register("incarnations", "w1", 60_000, 0)
    return engine


async def _submit(engine: QueuedEngine, pipeline: Pipeline, run_id: str) -> None:
    spec = pipeline.to_spec()
    await submit_run(engine.scripts, engine.codec, spec, 2, run_id=run_id, owner=POOL)


async def _commit(engine: QueuedEngine, run_id: str, data: bytes) -> None:
    claim = Claim(run_id, "0", 1, f"nonce-{run_id}", "w1", "default")
    while not isinstance(await engine.scripts.reserve(claim, POOL), Reserved):
        await engine.redis.blpop([f"nothing-{run_id}"], timeout=0.05)
    await engine.scripts.commit(
        claim,
        POOL,
        kind="succeeded",
        usage={},
        output=b"j4",
        result=b"j{}",
        context=b"",
        context_form="",
        data=data,
    )


async def test_a_run_with_an_event_that_cannot_be_ends_with_a_clear_error_and_its_neighbours_do_not_notice(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await _serving(redis_url, "undecided", _PLAIN)
    await _submit(engine, _PLAIN, "poisoned")
    await _submit(engine, _PLAIN, "healthy")

    await _commit(engine, "poisoned", b"{no json")
    await _commit(engine, "healthy", b"{}")

    await engine.client.run("healthy").result(30)
    with pytest.raises(ExecutionError, match=r"Run poisoned cannot go on: .*ValueError") as failed:
        await engine.client.run("poisoned").result(30)
    assert "flujo fork" in str(failed.value.suggestion)
    record = await engine.client.reader.record("poisoned")
    assert (record["status"], record["gate"]) == ("failed", "closed")
    tries = [entry for entry in caplog.records if entry.message == "run not advanced"]
    assert len(tries) == MOST_TRIES
    assert await engine.redis.zcard(engine.keyspace.shard("dirty")) == 0
    await engine.close()


async def test_a_cancel_behind_what_cannot_be_decided_ends_the_run_as_cancelled(redis_url: str) -> None:
    engine = await _serving(redis_url, "undecided-cancel", _PLAIN)
    await _submit(engine, _PLAIN, "poisoned")

    await _commit(engine, "poisoned", b"{no json")
    await engine.scripts.cancel("poisoned", POOL, "nobody wants it")

    with pytest.raises(RunCancelledError, match="cannot go on"):
        await engine.client.run("poisoned").result(30)
    await engine.close()


async def test_a_run_that_has_ended_and_whose_steps_cannot_be_told_gets_a_result_without_them(redis_url: str) -> None:
    engine = await _serving(redis_url, "untold", _CHOICE)
    nodes = engine.keyspace.run("r").nodes
    await engine.redis.hset(nodes, "0", '{"status": "running", "attempt": 1, "chosen": 99}')
    await _submit(engine, _CHOICE, "r")
    await engine.scripts.cancel("r", POOL, "nobody wants it")

    with pytest.raises(RunCancelledError, match="nobody wants it"):
        await engine.client.run("r").result(30)

    assert await engine.redis.zcard(engine.keyspace.shard("dirty")) == 0
    await engine.close()


async def test_a_fault_of_ours_ends_a_run_in_process_as_well_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = _RULES[EventKind.SUCCEEDED]

    def faulty(draft: Draft, event: Event) -> None:
        if draft.run.run_id == "poisoned":
            raise IndexError("a fault of ours")
        sound(draft, event)

    monkeypatch.setitem(_RULES, EventKind.SUCCEEDED, faulty)

    class Watch:
        asks = False

        async def before_storing(self, run: Any, decision: Any, told: set[str]) -> None: ...
        async def after_pause(self, run_id: str) -> None: ...
        async def after_end(self, run_id: str, result: dict[str, Any]) -> None:
            ended[run_id].set()

    ended = {"poisoned": asyncio.Event(), "healthy": asyncio.Event()}
    registry = Registry()
    spec = registry.add(_PLAIN)
    engine = EmbeddedEngine(registry, observer=Watch())
    await engine.open()
    await engine.state.specs.keep(spec, "r1")
    for run_id in ("poisoned", "healthy"):
        await submit_run(engine.scripts, engine.codec, spec, 2, run_id=run_id, owner=POOL)
        engine.manager.wake(run_id)

    await asyncio.wait_for(asyncio.gather(*(ended[run_id].wait() for run_id in ended)), 20)

    assert (await engine.state.record("poisoned"))["status"] == "failed"
    assert (await engine.state.record("healthy"))["status"] == "completed"
    assert not engine.broken.done()
    await engine.close()


def test_only_what_decides_is_blamed() -> None:
    newer = SchemaMismatchError("a newer release wrote it")
    with pytest.raises(KeyError) as elsewhere:
        raise KeyError("a hook")

    assert not is_undecidable(newer)
    assert not is_undecidable(elsewhere.value)
