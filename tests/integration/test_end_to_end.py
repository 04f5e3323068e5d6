"""Runs on a real fleet: what users do on an ordinary day, and what bad input does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
import redis

from flujo_client import AsyncFlujoClient, Flujo, FlujoClient, RunStatus, Settings, UsageLimits
from flujo_client.protocol.errors import (
    ResultTimeoutError,
    RunCancelledError,
    RunConflictError,
    RunNotFoundError,
    StateUnavailableError,
    TypeMismatchError,
    UnknownPipelineError,
    UsageLimitExceededError,
)
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.queues import broker_queue, celery_message
from tests.conftest import leaked_keys
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.pipelines import Summary, Tally, chain, digest, tallied


async def test_flujo_with_a_url_runs_on_the_fleet_and_gives_typed_outputs(fleet: Fleet) -> None:
    async with Flujo(digest, settings=fleet.settings(), usage_limits=UsageLimits(total_tokens_limit=100)) as flujo:
        result = await asyncio.wait_for(flujo.run_async({"url": "abc"})._result(), TIMEOUT_S)

    assert result.output == Summary(text="ABC 3")
    assert result.usage == {"tokens": 9}
    assert [part.name for part in result.step_history] == ["fetch", "read", "combine"]
    assert result.step_history[1].output == {"shout": "ABC", "measure": 3}


async def test_a_process_without_the_pipelines_module_submits_by_name(fleet: Fleet) -> None:
    script = """
import json, sys
from flujo_client import FlujoClient
assert not any(name.startswith("tests") for name in sys.modules)
with FlujoClient() as client:
    run = client.submit("digest", {"url": "xyz"}, run_id="other-process")
    print(json.dumps([run.result(60).output, run.status(), [event.kind for event in run.events()][-1]]))
"""
    environment = fleet.environment | {"PYTHONPATH": ""}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"text": "XYZ 3"}, "completed", "finished"]


async def test_a_caller_does_not_change_what_a_name_means_to_others(fleet: Fleet, client: AsyncFlujoClient) -> None:
    own = (digest.steps[0] >> digest.steps[1]).named("digest")
    async with Flujo(own, settings=fleet.settings()) as flujo:
        assert (await flujo.run_async({"url": "abc"})).output == {"shout": "ABC", "measure": 3}

    assert (await client.specs.by_name("digest")).content_hash == digest.to_spec().content_hash


async def test_the_same_submission_twice_is_one_run(client: AsyncFlujoClient, fleet: Fleet) -> None:
    one = await client.submit("digest", {"url": "same"}, run_id="once")
    other = await client.submit("digest", {"url": "same"}, run_id="once")

    results = await asyncio.gather(one.result(TIMEOUT_S), other.result(TIMEOUT_S))

    assert results[0].output == results[1].output
    assert len(fleet.entries(run_id="once", path="0")) == 1
    with pytest.raises(RunConflictError, match="once"):
        await client.submit("digest", {"url": "different"}, run_id="once")


async def test_a_finished_run_leaves_nothing_open(client: AsyncFlujoClient) -> None:
    run = await client.submit("chain", 1)
    await run.result(TIMEOUT_S)

    plain = redis.Redis.from_url(client.settings.state_url)
    held = [key for key in plain.scan_iter(match="*:held:*") if plain.zcard(key)]
    assert held == []
    assert plain.zscore(client.keyspace.shard("dirty"), run.run_id) is None
    assert [key for key in leaked_keys(plain, client.keyspace) if run.run_id in key] == []
    plain.close()


async def test_many_runs_at_once(client: AsyncFlujoClient) -> None:
    runs = await asyncio.gather(*(client.submit("chain", number) for number in range(60)))

    results = await asyncio.gather(*(run.result(TIMEOUT_S) for run in runs))

    assert [result.output for result in results] == [number + 5 for number in range(60)]


async def test_forty_branches_in_packed_messages(client: AsyncFlujoClient) -> None:
    result = await (await client.submit("wide", 1)).result(TIMEOUT_S)

    assert result.output == {f"b{index}": 2 for index in range(40)}


async def test_retries_and_context_on_workers(client: AsyncFlujoClient, fleet: Fleet) -> None:
    retried = await (await client.submit("retried", 7)).result(TIMEOUT_S)
    assert (retried.output, retried.step_history[0].attempts) == (7, 3)

    async with Flujo(tallied, settings=fleet.settings(), context_model=Tally) as flujo:
        result = await asyncio.wait_for(flujo.run_async(2)._result(), TIMEOUT_S)
    assert isinstance(result.final_pipeline_context, Tally)
    assert result.final_pipeline_context.total == 6


async def test_a_budget_ends_the_run_and_the_client_gets_what_was_done(client: AsyncFlujoClient) -> None:
    run = await client.submit("digest", {"url": "abc"}, usage_limits=UsageLimits(total_tokens_limit=12))

    with pytest.raises(UsageLimitExceededError) as caught:
        await run.result(TIMEOUT_S)

    assert "Token limit of 12 exceeded" in str(caught.value)
    assert caught.value.result.step_history[0].name == "fetch"
    assert caught.value.data["free"] == 8  # of the whole tree: the other branch waited as well


async def test_cancel_stops_a_running_step_and_nothing_starts_after_it(client: AsyncFlujoClient, fleet: Fleet) -> None:
    run = await client.submit("holding", "never-opened", run_id="cancelled-run")
    await fleet.until(lambda: fleet.entries(run_id="cancelled-run", kind="started"), "the step runs")

    assert await run.cancel("enough")
    with pytest.raises(RunCancelledError, match="enough"):
        await run.result(TIMEOUT_S)

    assert await run.status() is RunStatus.CANCELLED
    assert not await run.cancel()

    async def nothing_held() -> bool:
        keys = [key async for key in client.client.scan_iter(match="*:held:*")]
        members = [member for key in keys for member in await client.client.zrange(key, 0, -1)]
        return not any(member.startswith(b"cancelled-run ") for member in members)

    await fleet.until(nothing_held, "the running step was stopped")
    assert fleet.entries(run_id="cancelled-run", kind="bill") == []


async def test_a_result_that_takes_too_long_leaves_the_run_alone(client: AsyncFlujoClient, fleet: Fleet) -> None:
    run = await client.submit("holding", "slow", run_id="slow-run")

    with pytest.raises(ResultTimeoutError, match="slow-run is running"):
        await run.result(timeout_s=0.2)
    fleet.open_gate("slow")

    assert (await run.result(TIMEOUT_S)).output == "after slow"


async def test_events_are_complete_and_in_order_also_after_the_end(client: AsyncFlujoClient) -> None:
    run = await client.submit("chain", 1)
    live = [event async for event in run.events()]
    again = [event async for event in run.events()]

    assert live == again
    kinds = [event.kind for event in live]
    assert kinds == [EventKind.CREATED, *[EventKind.SUCCEEDED] * 5, EventKind.FINISHED]


async def test_a_sync_step_does_not_block_async_ones(client: AsyncFlujoClient, fleet: Fleet) -> None:
    runs = [await client.submit("blocking", f"block-{number}", run_id=f"block-{number}") for number in range(4)]
    await fleet.until(
        lambda: len([e for e in fleet.entries(kind="started") if e["run_id"].startswith("block-")]) == 4, "all block"
    )

    assert (await (await client.submit("chain", 0)).result(TIMEOUT_S)).output == 5

    for number in range(4):
        fleet.open_gate(f"block-{number}")
    assert all([(await run.result(TIMEOUT_S)).success for run in runs])


class TestBadInput:
    async def test_unknown_pipeline_names_those_that_are_known(self, client: AsyncFlujoClient) -> None:
        with pytest.raises(UnknownPipelineError, match=r"'digset'; published: .*digest"):
            await client.submit("digset", 1)

    async def test_input_that_does_not_fit_is_refused_at_submit(self, client: AsyncFlujoClient) -> None:
        with pytest.raises(TypeMismatchError, match=r"run bad-input .*'fetch' expects Page; \$: 'url' is a required"):
            await client.submit("digest", {"link": "x"}, run_id="bad-input")
        with pytest.raises(RunNotFoundError):
            await client.run("bad-input").status()

    async def test_an_unserialisable_output_names_run_and_step(self, client: AsyncFlujoClient) -> None:
        result = await (await client.submit("rubbish", 1, run_id="rubbish-1")).result(TIMEOUT_S)

        assert not result.success
        feedback = str(result.step_history[0].feedback)
        assert "Run rubbish-1, step 'unserialisable'" in feedback
        assert "Return JSON values" in feedback

    async def test_a_value_that_does_not_fit_the_next_step_names_both(self, client: AsyncFlujoClient) -> None:
        with pytest.raises(TypeMismatchError, match=r"'untyped' .*'increment' expects \(int\)"):
            await (await client.submit("mismatched", 1)).result(TIMEOUT_S)

    async def test_an_output_over_the_limit_fails_its_step_and_one_just_under_works(
        self, client: AsyncFlujoClient
    ) -> None:
        over = await (await client.submit("oversized", 64 * 2**20)).result(TIMEOUT_S)
        under = await (await client.submit("oversized", 64 * 2**20 - 2)).result(TIMEOUT_S)

        assert "FLUJO_MAX_PAYLOAD_BYTES" in str(over.step_history[0].feedback)
        assert under.output == 64 * 2**20 - 2

    async def test_garbage_messages_never_stop_a_worker(self, client: AsyncFlujoClient, fleet: Fleet) -> None:
        queue = broker_queue("flujo", "default")
        shapes: list[Any] = [
            "no json at all",
            json.dumps({"body": "!!", "headers": {"task": "flujo.step", "id": "x"}, "properties": {}}),
            json.dumps([1, 2, 3]),
        ]
        good = json.loads(_message(queue, {"version": 1, "queue": "default", "steps": [{"run_id": 5}]}))
        unknown = json.loads(_message(queue, {"version": 1, "queue": "default", "steps": [_ref("nobody")]}))
        for shape in (*shapes, json.dumps(good), json.dumps(unknown)):
            for _ in range(3):
                await client.client.lpush(queue, shape)

        results = await asyncio.gather(*[(await client.submit("chain", n)).result(TIMEOUT_S) for n in range(6)])

        assert [result.output for result in results] == [n + 5 for n in range(6)]

    async def test_redis_that_is_not_there(self) -> None:
        with pytest.raises(StateUnavailableError, match=r"127\.0\.0\.1:1"):
            await AsyncFlujoClient("redis://:secret@127.0.0.1:1/0", settings=Settings()).submit("digest", 1)

    def test_the_sync_client_does_the_same(self, fleet: Fleet) -> None:
        with FlujoClient(settings=fleet.settings()) as client:
            run = client.submit("chain", 1)
            assert run.result(TIMEOUT_S).output == 6
            assert run.status() is RunStatus.COMPLETED
            assert not run.cancel()


def _ref(run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "path": "0",
        "attempt": 1,
        "function": chain.steps[0].function,
        "label": "x",
        "owner": "pool",
    }


def _message(queue: str, body: dict[str, Any]) -> str:
    return celery_message(queue, body, {"lang": "py", "task": "flujo.step", "id": "garbage", "root_id": "g"})
