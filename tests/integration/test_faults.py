"""Messages lost and repeated, workers that sleep, Redis killed, managers that share, steps that nobody has."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from celery import Celery

from flujo_client import AsyncFlujoClient, Flujo, RunStatus, UsageLimits
from flujo_client.inspection import RunInspector
from flujo_client.protocol.errors import PipelineAbortSignal
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.queues import broker_queue, task_id
from flujo_client.protocol.results import PreStepPayload
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.integration.pipelines import STAGES, Stage, staged

QUEUE = broker_queue("flujo", "default")


async def _waiting(fleet: Fleet, client: AsyncFlujoClient, messages: int) -> list[bytes]:
    """Wait until so many messages wait in the broker's queue; return them."""

    async def queued() -> list[bytes]:
        found: list[bytes] = await client.client.lrange(QUEUE, 0, -1)
        return found if len(found) >= messages else []

    found: list[bytes] = await fleet.until(queued, f"{messages} messages wait")
    return found


async def _sleeping(fleet: Fleet, client: AsyncFlujoClient) -> Any:
    """Start a manager and a worker, and stop the worker so that messages wait in the queue; return it."""
    fleet.manager()
    worker = fleet.worker()
    await fleet.ready(1)
    await fleet.published(client, "staged")
    worker.send_signal(signal.SIGSTOP)

    async def deaf() -> bool:
        clients = await client.client.client_list()
        return not any(row["cmd"] == "brpop" and "b" in row["flags"] for row in clients)

    await fleet.until(deaf, "Redis has ended the stopped worker's blocking read, which would swallow a message")
    return worker


@pytest.mark.parametrize("how", ["deleted", "trimmed"])
async def test_a_lost_message_is_published_again(make_own_fleet: Callable[..., Fleet], how: str) -> None:
    fleet = make_own_fleet(f"lost-{how}")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        worker = await _sleeping(fleet, client)
        runs = [await client.submit("staged", {}, run_id=f"lost-{number}") for number in range(3)]
        await _waiting(fleet, client, 3)

        await (client.client.delete(QUEUE) if how == "deleted" else client.client.ltrim(QUEUE, 1, 1))
        worker.send_signal(signal.SIGCONT)

        for run in runs:
            assert (await run.result(TIMEOUT_S)).output["number"] == STAGES
            assert len(fleet.entries(run_id=run.run_id, kind="bill")) == STAGES
            await fleet.assert_paid_once(client, run.run_id)


async def test_a_message_delivered_twice_runs_once(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("twice")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        worker = await _sleeping(fleet, client)
        run = await client.submit("staged", {"hold_at": 0}, run_id="twice")
        message = (await _waiting(fleet, client, 1))[0]
        await client.client.lpush(QUEUE, message, message)  # three copies before anybody took one
        fleet.worker()
        worker.send_signal(signal.SIGCONT)
        await fleet.started("twice", "0")
        await client.client.lpush(QUEUE, message, message)  # and two while the step is running
        await _waiting_is_over(fleet, client)
        fleet.open_gate("twice")

        assert (await run.result(TIMEOUT_S)).output["number"] == STAGES
        await client.client.lpush(QUEUE, message)  # and one after the end
        await _waiting_is_over(fleet, client)
        assert (await (await client.submit("staged", {})).result(TIMEOUT_S)).success
        assert len(fleet.entries(run_id="twice", kind="started")) == STAGES
        assert len(fleet.entries(run_id="twice", kind="bill")) == STAGES


async def _waiting_is_over(fleet: Fleet, client: AsyncFlujoClient) -> None:
    async def empty() -> bool:
        return not await client.client.llen(QUEUE)

    await fleet.until(empty, "the queue is empty")


@pytest.mark.timeout(200)
async def test_a_zombies_late_commit_is_refused_and_its_spend_settled_once(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("zombie")
    fleet.manager()
    workers = {worker.pid: worker for worker in (fleet.worker(), fleet.worker())}
    await fleet.ready(2)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "metered")
        inspector = RunInspector(client.client, client.keyspace, client.specs)

        async def account() -> tuple[int, ...]:
            row = next(row for row in (await inspector.snapshot("zombie")).accounts if row.account == "root")
            return row.spent, row.unknown, row.reserved, row.free

        limits = UsageLimits(total_tokens_limit=100)
        run = await client.submit("metered", "zombie", run_id="zombie", usage_limits=limits)
        first = (await fleet.started("zombie", "0"))[0]
        workers[first["pid"]].send_signal(signal.SIGSTOP)
        await fleet.started("zombie", "0", times=2)
        assert await account() == (0, 10, 10, 80)  # the lost attempt stays charged: it may have been billed

        fleet.open_gate("zombie")
        assert (await run.result(TIMEOUT_S)).output == "after zombie"
        events = [event async for event in run.events()]
        assert await account() == (5, 10, 0, 85)  # four of its own, and a bare string counts as one
        workers[first["pid"]].send_signal(signal.SIGCONT)

        async def settled() -> bool:
            return await account() == (9, 0, 0, 91)

        await fleet.until(settled, "the zombie's four tokens are spent and the rest of its ten is free")
        committed = [event.fields["nonce"] for event in events if event.kind is EventKind.SUCCEEDED]
        assert first["nonce"] not in committed
        assert [event async for event in run.events()] == events
        assert len(fleet.entries(run_id="zombie", path="0", kind="bill")) == 2


async def test_a_process_stopped_between_claim_and_body_does_not_begin_what_others_have_run(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("stopped")
    fleet.manager()
    workers = [fleet.worker(), fleet.worker()]
    await fleet.ready(2)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "stops")

        run = await client.submit("stops", {"name": "once"}, run_id="once")
        assert (await run.result(TIMEOUT_S)).output == "once"

        marker = fleet.folder / "stopped-once"
        (stopped,) = [worker for worker in workers if str(worker.pid) == marker.read_text()]
        (other,) = [worker for worker in workers if worker is not stopped]
        other.terminate()  # the only one left to take the next run is the one that was stopped
        await asyncio.to_thread(other.wait, TIMEOUT_S)
        stopped.send_signal(signal.SIGCONT)
        marker.with_name("stopped-after").touch()
        await (await client.submit("stops", {"name": "after"}, run_id="after")).result(TIMEOUT_S)
        assert [entry["pid"] for entry in fleet.entries(kind="bill")] == [other.pid, stopped.pid]


@pytest.mark.timeout(200)
async def test_redis_killed_and_started_again_loses_nothing_that_was_committed(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_own_fleet("redis-kill", "--appendfsync", "always")
    processes = [fleet.manager(), fleet.worker()]
    await fleet.ready(1)
    async with AsyncFlujoClient(settings=fleet.settings()) as client, Flujo(staged, settings=fleet.settings()) as flujo:
        await fleet.published(client, "staged")
        for seed in range(3):
            chance = random.Random(seed)
            ids = [f"redis-{seed}-{number}" for number in range(8)]
            for run_id in ids:
                await client.submit("staged", {}, run_id=run_id)
            held = await client.submit("staged", {"hold_at": 2, "billed_first": seed % 2 == 1}, run_id=f"held-{seed}")
            followed = asyncio.create_task(_collect(held.events()))
            own_id = f"own-{seed}"
            own = asyncio.create_task(flujo.run_async(Stage(hold_at=3), run_id=own_id)._result())
            await fleet.started(held.run_id, "2")
            await fleet.started(own_id, "3")
            bills = chance.randrange(1, 8 * STAGES)
            await fleet.billed(ids, bills)

            assert fleet.server.process is not None
            fleet.server.process.kill()
            fleet.server.process.wait()
            fleet.server.start()
            fleet.open_gate(held.run_id)
            fleet.open_gate(own_id)

            for run_id in [*ids, held.run_id, own_id]:
                assert (await client.run(run_id).result(TIMEOUT_S)).output["number"] == STAGES
                await fleet.assert_paid_once(client, run_id)
            assert (await own).output == Stage(number=STAGES, hold_at=3)
            assert await followed == await _collect(held.events())
    assert [process.poll() for process in processes] == [None, None], "they came back by themselves"


async def test_a_redis_that_fails_over_is_waited_out(make_own_fleet: Callable[..., Fleet]) -> None:
    """For a while it answers every command with an error, as one that is loading its data does too."""
    fleet = make_own_fleet("failover", "--replica-serve-stale-data", "no")
    manager, worker = fleet.manager(), fleet.worker()
    await fleet.ready(1)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "staged")
        run = await client.submit("staged", {"hold_at": 1, "billed_first": True}, run_id="failover")
        await fleet.started("failover", "1")

        await client.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        fleet.open_gate("failover")
        await fleet.until(lambda: "inbox not read, trying again" in fleet.log_of(manager), "the manager is refused")
        await fleet.until(lambda: "not committed yet, trying again" in fleet.log_of(worker), "the worker is refused")
        await client.client.execute_command("REPLICAOF", "NO", "ONE")

        assert (await run.result(TIMEOUT_S)).output["number"] == STAGES
        await fleet.assert_paid_once(client, "failover")
    assert [manager.poll(), worker.poll()] == [None, None]


async def _collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_a_pre_step_hook_that_aborts_stops_the_step_however_long_it_takes(
    make_own_fleet: Callable[..., Fleet],
) -> None:
    """Nothing of the step is journalled before the hook has spoken, so that no sweep can publish it meanwhile."""
    fleet = make_own_fleet("abort")
    fleet.manager()
    fleet.worker()
    await fleet.ready(1)
    journalled: list[int] = []
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "staged")

        async def abort(payload: PreStepPayload) -> None:
            journalled.append(await client.client.zcard(client.keyspace.shard("dispatches")))
            raise PipelineAbortSignal("not this one")

        async with Flujo(staged, settings=fleet.settings(), hooks=[abort]) as flujo:
            result = await asyncio.wait_for(flujo.run_async(Stage(), run_id="aborted")._result(), TIMEOUT_S)
        assert (result.status, (result.error or {})["message"]) == (RunStatus.ABORTED, "not this one")

    assert journalled == [0]
    assert fleet.entries(run_id="aborted") == []


async def test_a_run_that_this_release_cannot_read_holds_up_no_other(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("newer")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await _sleeping(fleet, client)
        await client.submit("staged", {}, run_id="newer")
        await _waiting(fleet, client, 1)
        spec = await client.client.hget(client.keyspace.run("newer").run, "spec")
        specs = client.keyspace.shard("specs")
        newer = (await client.client.hget(specs, spec)).replace(b'"version":1', b'"version":2')
        for process in list(fleet.processes.values()):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        await client.client.hset(specs, spec, newer)
        await client.client.delete(QUEUE)
        manager = fleet.manager()

        await fleet.until(lambda: "run not mended" in fleet.log_of(manager), "the manager meets the run")
        fleet.worker()
        other = await client.submit("steady", 0)

        assert (await other.result(TIMEOUT_S)).output == 6
        assert manager.poll() is None


async def test_two_managers_share_the_work(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("two-managers")
    fleet.worker()
    for _ in range(2):
        fleet.manager()
    await fleet.ready(1)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "steady")

        async def both() -> bool:
            return bool(await client.client.zcard(client.keyspace.shard("managers")) == 2)

        await fleet.until(both, "two managers")
        runs = [await client.submit("steady", 0) for _ in range(40)]
        for run in runs:
            await run.result(TIMEOUT_S)

        async def counted() -> Any:
            fields = await client.client.hgetall(client.keyspace.shard("advances"))
            counts = [int(count) for count in fields.values()]
            return counts if sum(counts) >= 40 * 2 else None  # its start and its end, at least; told every half second

        counts = await fleet.until(counted, "every decision is counted")

    assert len(counts) == 2
    assert min(counts) >= 0.25 * sum(counts)


async def test_a_step_that_no_worker_has_waits_and_goes_on_when_one_comes(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("not-here")
    fleet.manager()
    full = fleet.worker()
    await fleet.ready(1)
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "steady")
        full.terminate()
        full.wait(timeout=30)
        fleet.worker(FLUJO_PIPELINES="examples.digest", PYTHONPATH=fleet.environment["PYTHONPATH"])
        await fleet.ready(1)
        run = await client.submit("steady", 0, run_id="waits")

        async def declined() -> Any:
            return await client.client.hget(client.keyspace.run("waits").attempts, "0|declined")

        why = await fleet.until(declined, "it is said that the step is lacking")
        assert b"billed" in why  # from the worker that lacks it, or the manager that knows what workers have
        fleet.worker()

        assert (await run.result(TIMEOUT_S)).output == 6


@pytest.mark.parametrize(
    ("pipeline", "says"), [("cancelled_inside", "CancelledError"), ("miscounted", "must be an integer, not 2.25")]
)
async def test_what_goes_wrong_around_a_step_costs_an_attempt_and_no_slot(
    fleet: Fleet, client: AsyncFlujoClient, pipeline: str, says: str
) -> None:
    run = await client.submit(pipeline, 9)

    result = await run.result(TIMEOUT_S)

    assert says in str(result.step_history[0].feedback)
    assert len(fleet.entries(run_id=run.run_id, kind="started")) == 1
    assert (await (await client.submit("steady", 0)).result(TIMEOUT_S)).output == 6


async def test_a_step_that_flower_revokes_fails_once_and_its_worker_goes_on(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    run = await client.submit("holding", "never", run_id="revoked")
    await fleet.started("revoked", "0")

    with Celery(broker=fleet.url) as app:
        app.control.revoke(f"{task_id('revoked', '0', 1)}", terminate=True)

    result = await run.result(TIMEOUT_S)
    assert result.step_history[0].feedback == "Run revoked step 0 was revoked."
    assert len(fleet.entries(run_id="revoked", kind="started")) == 1
    assert (await (await client.submit("steady", 0)).result(TIMEOUT_S)).output == 6
