"""The Celery task `flujo.submit`: what becomes of its message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from celery.exceptions import Reject

from flujo_client import AsyncFlujoClient, Pipeline, RunStatus, Step
from flujo_client.cli.redis_server import free_port
from flujo_client.inspection import RunInspector
from flujo_client.protocol.errors import (
    FlujoError,
    MessageError,
    RunConflictError,
    RunFailedError,
    TypeMismatchError,
    UnknownAccountError,
    UnknownPipelineError,
)
from flujo_client.protocol.settings import Settings
from flujo_worker.app import create_app
from flujo_worker.registry import Registry


def test_a_submission_that_redis_did_not_take_goes_back_to_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flujo_worker.submit._PATIENCE_S", 0)
    app = create_app(Settings(url=f"redis://127.0.0.1:{free_port()}"), Registry())

    with pytest.raises(Reject) as refused:
        app.tasks["flujo.submit"]("chain", run_id="r")

    assert refused.value.requeue


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncFlujoClient]:
    """Of a namespace of its own, in which a pipeline is published that takes a number."""
    settings = Settings(url=redis_url, namespace=f"t{uuid4().hex[:10]}")
    async with AsyncFlujoClient(settings=settings) as connected:
        spec = Pipeline([Step.from_callable(number, name="number")], name="numbers").to_spec()
        await connected.scripts.publish_spec("numbers", spec.content_hash, spec.model_dump_json().encode())
        yield connected


async def number(value: int) -> int:
    return value


async def _send(client: AsyncFlujoClient, task_id: str, *args: Any, **kwargs: Any) -> str:
    task = create_app(client.settings, Registry()).tasks["flujo.submit"]
    done = await asyncio.to_thread(task.apply, args, kwargs, task_id=task_id)
    return str(done.get())


#: What a sender may get wrong; the error, and what of it must be said.
MISTAKES: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[FlujoError], str]] = {
    "unknown pipeline": (("nothing",), {}, UnknownPipelineError, "pipeline named 'nothing'; published: numbers"),
    "wrong input": (("numbers", "one"), {}, TypeMismatchError, "The input of run t-1 does not fit pipeline 'numbers'"),
    "unknown kwarg": (("numbers", 1), {"inputs": 2}, MessageError, "does not take 'inputs'. It takes pipeline, input"),
    "too much": (("numbers", 1, None, None, None, 6), {}, MessageError, "does not take 6 arguments"),
    "no accounts": (("numbers", 1), {"accounts": "team"}, MessageError, "accounts of flujo.submit are names"),
    "no such account": (
        ("numbers", 1),
        {"accounts": ["team"]},
        UnknownAccountError,
        "Nobody has defined an account team",
    ),
    "no pipeline": ((), {"input": 1}, MessageError, "needs the name of a pipeline"),
    "no limits": (("numbers", 1), {"usage_limits": {"tokens": 1}}, MessageError, "usage_limits of flujo.submit"),
    "no id": (("numbers", 1, "a b"), {}, RunFailedError, "'a b' cannot be a run id"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_submission_with_a_mistake_of_its_sender_is_found_under_its_id(
    client: AsyncFlujoClient, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    args, kwargs, error, text = MISTAKES[mistake]

    assert await _send(client, "t-1", *args, **kwargs) == "t-1"

    with pytest.raises(error) as caught:
        await client.run("t-1").result(10)
    assert text in str(caught.value)
    assert "https://" not in str(caught.value)
    assert await client.run("t-1").status() is RunStatus.FAILED
    inspector = RunInspector(client.client, client.keyspace, client.specs)
    (summary,), shown = await inspector.runs(), await inspector.snapshot("t-1")
    assert text in (summary.error or "")
    assert shown.summary.error == summary.error
    assert [event async for event in client.run("t-1").events()] == []
    with pytest.raises(UnknownPipelineError, match="was refused"):
        await client.run("t-1").trace()
    (record,) = [record for record in caplog.records if record.name == "flujo_worker.submit"]
    assert (record.message, record.exc_info) == ("submission refused", None)


async def test_a_refusal_does_not_take_the_id_from_a_submission_that_is_right(client: AsyncFlujoClient) -> None:
    await _send(client, "t-1", "numbers", "one", run_id="order-1")
    assert await client.run("order-1").status() is RunStatus.FAILED

    assert await _send(client, "t-2", "numbers", 1, run_id="order-1") == "order-1"

    assert await client.run("order-1").status() is RunStatus.RUNNING
    assert "error" not in await client.reader.record("order-1")


async def test_a_conflict_is_found_under_the_tasks_id(client: AsyncFlujoClient) -> None:
    await _send(client, "t-1", "numbers", 1, run_id="order-1")

    assert await _send(client, "t-2", "numbers", 2, run_id="order-1") == "t-2"

    assert await client.run("order-1").status() is RunStatus.RUNNING
    with pytest.raises(RunConflictError):
        await client.run("t-2").result(10)


async def test_a_task_whose_id_cannot_be_one_of_a_run_is_told_in_the_log_alone(
    client: AsyncFlujoClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert await _send(client, "/x", "nothing") == "/x"

    assert await RunInspector(client.client, client.keyspace, client.specs).runs() == []
    assert "submission refused" in caplog.messages


def test_its_message_is_acknowledged_after_the_run_is_stored() -> None:
    task = create_app(Settings(url="redis://127.0.0.1"), Registry()).tasks["flujo.submit"]

    assert task.acks_late
    assert task.reject_on_worker_lost
