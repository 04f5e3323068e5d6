"""What a run that does not go on is said to wait for, and how seldom it is looked at."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from flujo_client.client import AsyncFlujoClient
from flujo_client.execution.decision import NodeStatus
from flujo_client.inspection import NodeRow, Question, RunSnapshot, RunSummary
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.settings import Settings
from flujo_client.stalls import _MOST_RUNS, reasons_to_wait

SUMMARY = RunSummary("order-42", "digest", RunStatus.RUNNING, "pool", 1_000, unmanaged=False, duration_ms=2_500)
QUEUED = NodeRow("0", "fetch", "step", NodeStatus.DISPATCHED, 1, 0, 0, 0, None, None)
DECLINED = replace(QUEUED, declined="flujo.digest.fetch")
LACKING = "no worker has flujo.digest.fetch; start one with `flujo worker --pipelines MODULE`"
NONE_ALIVE = "no worker is alive; start one with `flujo worker --pipelines MODULE`"
ASKED = (Question("1", "ask", "Go\non?"),)


@pytest.mark.parametrize(
    ("summary", "node", "workers", "queues", "reasons"),
    [
        (SUMMARY, replace(QUEUED, started_ms=5), 1, {}, []),
        (SUMMARY, QUEUED, 1, {}, []),
        (SUMMARY, QUEUED, 0, {"default": 1}, [NONE_ALIVE]),
        (SUMMARY, replace(QUEUED, started_ms=5), 0, {}, []),
        (SUMMARY, DECLINED, 1, {"default": 1}, [LACKING]),
        (
            SUMMARY,
            replace(QUEUED, declined="fetch (my.pages:fetch)"),
            1,
            {},
            ["no worker has fetch (my.pages:fetch); start one with `flujo worker --pipelines my.pages`"],
        ),
        (SUMMARY, QUEUED, 1, {"cpu": 2}, ["no worker serves queue 'cpu'; start one with `flujo worker --queues cpu`"]),
        (
            replace(SUMMARY, unmanaged=True),
            QUEUED,
            1,
            {},
            ["no manager serves the pool; start one with `flujo manager`"],
        ),
        (
            replace(SUMMARY, status=RunStatus.PAUSED, questions=ASKED),
            replace(QUEUED, status=NodeStatus.PAUSED),
            1,
            {},
            ["step 'ask' asks: Go on?; answer with `flujo resume order-42 ANSWER --token 1`"],
        ),
        (replace(SUMMARY, questions=ASKED), QUEUED, 1, {}, []),
        (
            SUMMARY,
            replace(QUEUED, status=NodeStatus.BLOCKED, waits_for="team-a tokens"),
            1,
            {},
            ["account team-a tokens is exhausted, see `flujo accounts`"],
        ),
        (replace(SUMMARY, status=RunStatus.FAILED), DECLINED, 0, {"default": 1}, []),
    ],
)
def test_what_does_not_come_by_itself_is_said_and_nothing_else(
    summary: RunSummary, node: NodeRow, workers: int, queues: dict[str, int], reasons: list[str]
) -> None:
    assert reasons_to_wait(RunSnapshot(summary, (node,), ()), workers, queues) == reasons


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


async def test_a_look_at_what_cannot_be_read_says_nothing(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncFlujoClient(settings=Settings(url=redis_url, namespace="empty")) as client:
        with caplog.at_level(logging.WARNING):
            assert await client.stalls._reasons("nothing") == []
