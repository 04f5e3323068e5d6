"""What a run that does not go on is said to wait for, how seldom it is looked at, and what a look costs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest
import redis

from flujo_client import stalls
from flujo_client.client import AsyncFlujoClient
from flujo_client.execution.decision import Decision, NodeState, NodeStatus
from flujo_client.inspection import RunInspector
from flujo_client.protocol.replies import Advanced, Dispatch
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.snapshots import Question, QueuedStep, RunSummary, RunWaits
from flujo_client.stalls import _MOST_RUNS, StallWatch, reasons_to_wait
from tests.lua.runs import a_dispatch, create_run
from tests.unit.replay import loop, map_over, sequence, step

SUMMARY = RunSummary("order-42", "digest", RunStatus.RUNNING, "pool", 1_000, unmanaged=False, duration_ms=2_500)
QUEUED = QueuedStep("fetch", "default")
DECLINED = replace(QUEUED, declined="flujo.digest.fetch")
LACKING = "no worker has flujo.digest.fetch; start one with `flujo worker --pipelines MODULE`"
NONE_ALIVE = "no worker is alive; start one with `flujo worker --pipelines MODULE`"
ASKED = (Question("1", "ask", "Go\non?"),)


@pytest.mark.parametrize(
    ("summary", "waits", "reasons"),
    [
        (SUMMARY, RunWaits(workers=1), []),
        (SUMMARY, RunWaits((QUEUED,), workers=1), []),
        (SUMMARY, RunWaits((QUEUED,), unserved=("default",)), [NONE_ALIVE]),
        (SUMMARY, RunWaits(), []),
        (SUMMARY, RunWaits((DECLINED, DECLINED), workers=1, unserved=("default",)), [LACKING]),
        (
            SUMMARY,
            RunWaits((replace(QUEUED, declined="fetch (my.pages:fetch)"),), workers=1),
            ["no worker has fetch (my.pages:fetch); start one with `flujo worker --pipelines my.pages`"],
        ),
        (
            SUMMARY,
            RunWaits((QUEUED,), workers=1, unserved=("cpu",)),
            ["no worker serves queue 'cpu'; start one with `flujo worker --queues cpu`"],
        ),
        (
            replace(SUMMARY, unmanaged=True),
            RunWaits((QUEUED,), workers=1),
            ["no manager serves the pool; start one with `flujo manager`"],
        ),
        (
            replace(SUMMARY, status=RunStatus.PAUSED),
            RunWaits(questions=(Question("1", "a", "it died: `flujo dead retry order-42`", dead=True),)),
            ["it died: `flujo dead retry order-42`"],
        ),
        (
            replace(SUMMARY, status=RunStatus.PAUSED),
            RunWaits(questions=ASKED, workers=1),
            ["step 'ask' asks: Go on?; answer with `flujo resume order-42 ANSWER --token 1`"],
        ),
        (SUMMARY, RunWaits((QUEUED,), ASKED, workers=1), []),
        (
            SUMMARY,
            RunWaits((replace(QUEUED, waits_for="team-a tokens"),), workers=1),
            ["account team-a tokens is exhausted, see `flujo accounts`"],
        ),
        (replace(SUMMARY, status=RunStatus.FAILED), RunWaits((DECLINED,), unserved=("default",)), []),
    ],
)
def test_what_does_not_come_by_itself_is_said_and_nothing_else(
    summary: RunSummary, waits: RunWaits, reasons: list[str]
) -> None:
    assert reasons_to_wait(summary, waits) == reasons


async def test_of_many_runs_only_some_are_looked_at(redis_url: str) -> None:
    async with AsyncFlujoClient(settings=Settings(url=redis_url)) as client:
        before = len(asyncio.all_tasks())
        watches = [client.stalls.telling(f"r{number}") for number in range(_MOST_RUNS + 5)]

        for watch in watches:
            watch.__enter__()
        looking = len(asyncio.all_tasks()) - before
        for watch in watches:
            watch.__exit__(None, None, None)

        assert looking == _MOST_RUNS
        with client.stalls.telling("later"):
            assert client.stalls._watched == 1


class _Deaf(RunInspector):
    """An inspector whose Redis client swallows a cancellation."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def still_ms(self, run_id: str) -> int | None:
        self.asked.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return None


async def test_nothing_is_looked_at_any_more_although_the_cancellation_was_swallowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stalls, "_FIRST_LOOK_S", 0)
    before, inspector = asyncio.all_tasks(), _Deaf()
    with StallWatch(inspector).telling("r1"):
        await inspector.asked.wait()
        (looking,) = asyncio.all_tasks() - before

    await asyncio.wait([looking], timeout=10)

    assert looking.done()
    assert not looking.cancelled()


async def test_a_look_at_what_cannot_be_read_says_nothing(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncFlujoClient(settings=Settings(url=redis_url, namespace="empty")) as client:
        with caplog.at_level(logging.WARNING):
            assert await client.stalls.look("nothing") is None


#: Items of a map, each a node of its run.
MANY = 10_000
SLICE = 500
DISPATCHED = NodeState(status=NodeStatus.DISPATCHED, attempt=1)
SUCCEEDED = NodeState(status=NodeStatus.SUCCEEDED, attempt=1, latency_ms=12, usage={"tokens": 700, "requests": 1})


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncFlujoClient]:
    settings = Settings(url=redis_url, namespace=f"stalls{uuid4().hex[:8]}")
    async with AsyncFlujoClient(settings=settings) as client:
        yield client


async def large_run(client: AsyncFlujoClient, queued: int) -> None:
    """Run `r1`, ten thousand items of which the last so many wait for a worker, and the others have succeeded."""
    spec = PipelineSpec(name="large", root=sequence(map_over(step("fetch", queue="cpu"))))
    await client.specs.keep(spec, "r1")
    await create_run(client.scripts, spec_hash=spec.content_hash)
    await client.scripts.register("incarnations", "w1", 600_000, 0)
    for begin in range(0, MANY, SLICE):
        nodes, dispatches = dict[str, NodeState](), list[Dispatch]()
        for index in range(begin, begin + SLICE):
            path = f"0.{index}.0"
            nodes[path] = DISPATCHED if index >= MANY - queued else SUCCEEDED
            if nodes[path] is DISPATCHED:
                dispatches.append(replace(a_dispatch(path), queue="cpu"))
        loaded = await client.state.read_run("r1")
        assert loaded is not None
        decision = Decision(
            loaded[0].record["last_event"], RunStatus.RUNNING, nodes=nodes, dispatches=tuple(dispatches)
        )
        assert isinstance(await client.state.persist_workflow_state(loaded[0], decision), Advanced)


async def cost_of_a_look(client: AsyncFlujoClient) -> tuple[list[str] | None, dict[str, int], int]:
    """What a look says; the commands that it took; and the bytes that Redis sent for it."""
    server = redis.Redis.from_url(client.settings.state_url)
    await client.stalls.look("r1")  # connections are open now, the pipeline is known
    before, sent = calls(server), server.info("stats")["total_net_output_bytes"]
    said = await client.stalls.look("r1")
    sent = server.info("stats")["total_net_output_bytes"] - sent
    after = calls(server)
    server.close()
    return said, {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}, sent


def calls(server: redis.Redis) -> dict[str, int]:
    stats = server.info("commandstats")
    assert isinstance(stats, dict)
    return {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items() if name != "cmdstat_info"}


async def test_a_look_at_a_run_that_moves_takes_two_short_replies(
    client: AsyncFlujoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await large_run(client, queued=MANY)
    monkeypatch.setattr(stalls, "_STILL_MS", 600_000)

    said, commands, _ = await cost_of_a_look(client)

    assert said is None
    assert commands == {"hget": 1, "time": 1}


async def test_a_look_at_ten_thousand_queued_steps_reads_a_tenth_of_them(
    client: AsyncFlujoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await large_run(client, queued=MANY)
    monkeypatch.setattr(stalls, "_STILL_MS", 0)

    said, commands, sent = await cost_of_a_look(client)

    assert said == [
        "no manager serves the pool; start one with `flujo manager`",
        "no worker serves queue 'cpu'; start one with `flujo worker --queues cpu`",
    ]
    assert commands["hscan"] <= 3
    assert sum(commands.values()) <= 16
    assert sent < 200_000


async def test_one_queued_step_among_ten_thousand_is_found_page_by_page(
    client: AsyncFlujoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await large_run(client, queued=1)
    member = f"r1 0.{MANY - 1}.0 1 cpu"
    await client.scripts.decline(member, f"0.{MANY - 1}.0", 1, "fetch (my.pages:fetch)", 60_000)
    monkeypatch.setattr(stalls, "_STILL_MS", 0)

    said, commands, _ = await cost_of_a_look(client)

    assert said is not None
    assert "no worker has fetch (my.pages:fetch); start one with `flujo worker --pipelines my.pages`" in said
    assert commands["hscan"] in range(MANY // SLICE, MANY // SLICE + 3)
    assert sum(commands.values()) - commands["hscan"] <= 13


async def test_what_a_composites_own_function_lacks_is_named(client: AsyncFlujoClient) -> None:
    spec = PipelineSpec(name="looping", root=sequence(loop(step("fetch"))))
    await client.specs.keep(spec, "r1")
    await create_run(client.scripts, spec_hash=spec.content_hash)
    loaded = await client.state.read_run("r1")
    assert loaded is not None
    begun = replace(a_dispatch("0!next.0"), queue="default")
    decision = Decision("", RunStatus.RUNNING, nodes={begun.path: DISPATCHED}, dispatches=(begun,))
    assert isinstance(await client.state.persist_workflow_state(loaded[0], decision), Advanced)

    await client.scripts.decline("r1 0!next.0 1 default", begun.path, 1, "loop:next (m:done)", 60_000)

    waits = await client.inspector.waits("r1")
    assert waits.queued == (QueuedStep("loop:next", "default", declined="loop:next (m:done)"),)
