"""Other brokers and pools, Celery without this package, Flower, traces, and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Connection, Queue

from flujo_client import AsyncFlujoClient
from flujo_client.cli.redis_server import free_port
from flujo_client.protocol.errors import BrokerUnavailableError
from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.protocol.queues import broker_queue
from flujo_client.publisher import KombuPublisher
from tests.integration.conftest import TIMEOUT_S, Fleet
from tests.unit.proxy import Proxy

RABBITMQ = "amqp://guest:guest@localhost:5672//"


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return True
    except OSError:
        return False


async def _run(client: AsyncFlujoClient, fleet: Fleet, pipeline: str, value: Any, **options: Any) -> Any:
    async def known() -> bool:
        return bool(await client.client.hexists(client.keyspace.shard("pipelines"), pipeline))

    await fleet.until(known, f"{pipeline} is published")
    return await (await client.submit(pipeline, value, **options)).result(TIMEOUT_S)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_other_pools_run_steps_too(make_own_fleet: Callable[..., Fleet], pool: str) -> None:
    fleet = make_own_fleet(pool)
    fleet.manager()
    fleet.worker("--pool", pool, "--concurrency", "2")
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        results = [await _run(client, fleet, "digest", {"url": "abc"}), await _run(client, fleet, "chain", 1)]

    assert [result.output for result in results] == [{"text": "ABC 3"}, 6]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
async def test_a_worker_runs_as_many_steps_at_once_as_it_was_told(
    make_own_fleet: Callable[..., Fleet], pool: str
) -> None:
    fleet = make_own_fleet(f"{pool}-slots")
    fleet.manager()
    at_once = (os.cpu_count() or 1) + 1
    fleet.worker("--pool", pool, "--concurrency", str(at_once))
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "holding")
        names = [f"slot{number}" for number in range(at_once + 2)]
        runs = [await client.submit("holding", name, run_id=name) for name in names]

        await fleet.until(lambda: len(fleet.entries(kind="started", path="0")) >= at_once, f"{at_once} steps at once")

        begun = len(fleet.entries(kind="started", path="0"))
        for name in names:
            fleet.open_gate(name)
        assert [(await run.result(TIMEOUT_S)).output for run in runs] == [f"after {name}" for name in names]
    assert begun == at_once


ON_RABBITMQ = pytest.mark.skipif(
    not _answers(5672) and not os.environ.get("FLUJO_REQUIRE_RABBITMQ"), reason="no RabbitMQ answers on localhost:5672"
)


@contextmanager
def _namespace_on_rabbitmq() -> Iterator[str]:
    """A namespace whose queues vanish with the test."""
    namespace = f"test{uuid4().hex[:8]}"
    try:
        yield namespace
    finally:
        with Connection(RABBITMQ) as connection, connection.channel() as channel:
            for queue in ("default", "submit"):
                channel.queue_delete(broker_queue(namespace, queue))


@ON_RABBITMQ
async def test_a_rabbitmq_that_says_nothing_is_one_that_is_away_until_it_speaks_again() -> None:
    message = StepMessage(
        queue="default", steps=(StepRef(run_id="r", path="0", attempt=1, function="m:f", owner="pool"),)
    )
    with _namespace_on_rabbitmq() as namespace:
        async with Proxy(5672).listening() as proxy:
            url = RABBITMQ.replace("localhost:5672", proxy.url.removeprefix("redis://").removesuffix("/0"))
            publisher = KombuPublisher(url, namespace, patience_s=0.5)
            await publisher.publish([publisher.prepare(message)])
            proxy.silent = True

            with pytest.raises(BrokerUnavailableError, match="does not answer"):
                await asyncio.wait_for(publisher.publish([publisher.prepare(message)]), 10)
            with pytest.raises(BrokerUnavailableError, match="does not answer"):
                await asyncio.wait_for(publisher.depth("default"), 10)

            proxy.silent = False
            await publisher.publish([publisher.prepare(message)])
            assert await publisher.depth("default") >= 2
            await publisher.close()


@ON_RABBITMQ
@pytest.mark.timeout(200)
async def test_rabbitmq_quorum_queues_as_broker_and_a_killed_worker(make_own_fleet: Callable[..., Fleet]) -> None:
    with _namespace_on_rabbitmq() as namespace:
        fleet = make_own_fleet("rabbitmq", FLUJO_BROKER_URL=RABBITMQ, FLUJO_NAMESPACE=namespace)
        fleet.manager()
        fleet.worker()
        async with AsyncFlujoClient(settings=fleet.settings()) as client:
            result = await _run(client, fleet, "digest", {"url": "abc"})
            assert result.output == {"text": "ABC 3"}
            run = await client.submit("holding", "rabbit", run_id="rabbit-1")
            first = (await fleet.until(lambda: fleet.entries(run_id="rabbit-1", kind="started"), "it runs"))[0]
            fleet.worker()
            os.kill(first["pid"], 9)
            await fleet.until(lambda: len(fleet.entries(run_id="rabbit-1", kind="started")) == 2, "it runs elsewhere")
            fleet.open_gate("rabbit")
            assert (await run.result(TIMEOUT_S)).output == "after rabbit"


def _consumers(queue: str) -> int:
    with Connection(RABBITMQ) as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).consumer_count)
        except connection.channel_errors:  # there is no such queue yet
            return 0


@ON_RABBITMQ
@pytest.mark.parametrize("worker_stays", [True, False])
async def test_a_submission_on_rabbitmq_outlives_a_redis_that_is_away(
    make_own_fleet: Callable[..., Fleet], worker_stays: bool
) -> None:
    with _namespace_on_rabbitmq() as namespace:
        fleet = make_own_fleet("submission", FLUJO_BROKER_URL=RABBITMQ, FLUJO_NAMESPACE=namespace)
        fleet.manager()
        worker = fleet.worker()
        async with AsyncFlujoClient(settings=fleet.settings()) as client:
            await fleet.published(client, "chain")
            queue, kwargs = broker_queue(namespace, "submit"), {"pipeline": "chain", "input": 4, "run_id": "patient"}
            await fleet.until(lambda: _consumers(queue), "the worker listens")
            fleet.server.stop()
            with Celery(broker=RABBITMQ) as app:
                app.send_task("flujo.submit", kwargs=kwargs, queue=Queue(queue, no_declare=True), ignore_result=True)
            await fleet.until(lambda: "submission not stored yet" in fleet.log_of(worker), "the worker has tried")
            if not worker_stays:
                worker.terminate()
                await asyncio.to_thread(worker.wait, 60)

            fleet.server.start()
            if not worker_stays:
                fleet.worker()

            async def stored() -> bool:
                return bool(await client.client.exists(client.keyspace.run("patient").run))

            await fleet.until(stored, "the run is stored")
            assert (await client.run("patient").result(TIMEOUT_S)).output == 9


CELERY_ONLY = """
import sys
from celery import Celery
assert "flujo_client" not in sys.modules
try:
    import flujo_client
except ImportError:
    pass
else:
    raise SystemExit("flujo_client can be imported here")
app = Celery(broker=sys.argv[1])
kwargs = {"pipeline": "chain", "input": 4, "run_id": "by-celery", "usage_limits": {"total_tokens_limit": 100}}
for _ in range(2):
    app.send_task("flujo.submit", kwargs=kwargs, queue="flujo.submit", ignore_result=True)
"""


def _celery_only(folder: Path) -> str:
    """A folder from which celery can be imported and this package cannot."""
    site = Path(sysconfig.get_paths()["purelib"])
    folder.mkdir()
    for entry in site.iterdir():
        if not entry.name.startswith(("flujo", "_flujo", "__editable__")) and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return str(folder)


async def test_a_process_with_only_celery_starts_a_run(fleet: Fleet, client: AsyncFlujoClient, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": _celery_only(tmp_path / "site")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-S", "-c", CELERY_ONLY, fleet.url],
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr

    async def stored() -> bool:
        return bool(await client.client.exists(client.keyspace.run("by-celery").run))

    await fleet.until(stored, "the run is stored")
    assert (await client.run("by-celery").result(TIMEOUT_S)).output == 9


async def test_flower_lists_every_step_by_name(fleet: Fleet, client: AsyncFlujoClient) -> None:
    port = free_port()
    options = ["--address=127.0.0.1", f"--port={port}"]
    fleet.start_process(
        *("-m", "celery", "-A", "flujo_worker.app", "flower", *options), name="flower", FLOWER_UNAUTHENTICATED_API="1"
    )

    def tasks() -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/tasks?limit=10000", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return {}

    def names_of(run_id: str) -> list[str]:
        return sorted(
            task["name"] for task in tasks().values() if task["root_id"] == run_id and task["state"] == "SUCCESS"
        )

    steps = ["flujo.digest.combine", "flujo.digest.fetch", "flujo.digest.measure", "flujo.digest.shout"]
    run_ids: list[str] = []

    async def shown() -> bool:
        run = await client.submit("digest", {"url": "abc"})
        await run.result(TIMEOUT_S)
        run_ids.append(run.run_id)
        return any([await asyncio.to_thread(names_of, run_id) == steps for run_id in run_ids])

    await fleet.until(shown, "Flower has switched events on and shows a run's steps")
    wide = await client.submit("wide", 1)
    await wide.result(TIMEOUT_S)
    await fleet.until(lambda: len(names_of(wide.run_id)) == 40, "each packed step has its own entry")
    details = [task for task in tasks().values() if task["root_id"] == wide.run_id]
    assert all(task["args"].startswith(f"run={wide.run_id} step=0.") for task in details)


def _spans(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and '"trace_id"' in line]


async def test_the_spans_of_a_run_form_one_trace(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet("traces", OTEL_TRACES_EXPORTER="console")
    fleet.manager()
    fleet.worker()
    script = """
import sys
from opentelemetry import trace
from flujo_client import FlujoClient
from flujo_client.protocol.tracing import configure_sdk
configure_sdk("service")
with trace.get_tracer("service").start_as_current_span("order"), FlujoClient() as client:
    client.submit("digest", {"url": "abc"}, run_id="traced").result(60)
"""
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await _run(client, fleet, "chain", 1)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr

    def trace() -> dict[str, dict[str, Any]]:
        spans = _spans(done.stderr + "".join(path.read_text() for path in fleet.folder.glob("*.log")))
        root = next((span for span in spans if span["name"] == "order"), None)
        return {
            span["context"]["span_id"]: span
            for span in spans
            if root is not None and span["context"]["trace_id"] == root["context"]["trace_id"]
        }

    def whole() -> dict[str, dict[str, Any]]:
        """A dispatch that waits long on a busy machine is published again, so there may be more than one span a message."""
        spans = trace()
        parents = {span["parent_id"] for span in spans.values() if span["parent_id"]}
        return spans if len(_of_kind(spans, "CONSUMER")) == 4 and parents <= spans.keys() else {}

    spans = await fleet.until(whole, "every span is exported, and its parent")
    assert [span["name"] for span in spans.values() if span["parent_id"] is None] == ["order"]
    publishing = {spans[span["parent_id"]]["context"]["span_id"] for span in _of_kind(spans, "CONSUMER")}
    assert len(publishing) == 4
    assert all(spans[span_id]["kind"] == "SpanKind.PRODUCER" for span_id in publishing)


def _of_kind(spans: dict[str, dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [span for span in spans.values() if span["kind"] == f"SpanKind.{kind}"]


class TestCommandLine:
    async def _flujo(self, fleet: Fleet, *words: str, code: int = 0) -> Any:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "flujo_client.cli", *words],
            env=fleet.environment,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    async def test_submit_show_watch_runs_cancel(self, fleet: Fleet) -> None:
        done = await self._flujo(
            fleet,
            "submit",
            "digest",
            '{"url": "abc"}',
            "--wait",
            "--run-id",
            "cli-1",
            "--budget-tokens",
            "90",
            "--json",
        )
        assert done["step_history"][-1]["output"] == {"text": "ABC 3"}

        shown = await self._flujo(fleet, "show", "cli-1", "--json")
        assert [node["name"] for node in shown["nodes"]] == ["fetch", "read", "combine"]
        root = next(row for row in shown["accounts"] if row["account"] == "root")
        assert (root["granted"], root["spent"], root["children"], root["free"]) == (90, 4, 5, 81)
        assert (await self._flujo(fleet, "watch", "cli-1", "--json"))["summary"]["status"] == "completed"
        assert "cli-1" in {run["run_id"] for run in (await self._flujo(fleet, "runs", "--json"))["runs"]}
        assert await self._flujo(fleet, "cancel", "cli-1", "--json") == {"run_id": "cli-1", "cancelled": False}

    async def test_run_queued_and_errors_in_one_line(self, fleet: Fleet) -> None:
        ran = await self._flujo(fleet, "run", "tests.integration.pipelines:chain", "1", "--json")
        assert ran["step_history"][-1]["output"] == 6
        error = await self._flujo(fleet, "submit", "nobody", "1", "--json", code=1)
        assert error["error"]["type"] == "UnknownPipelineError"
        missing = await self._flujo(fleet, "show", "nobody", "--json", code=1)
        assert missing["error"]["type"] == "RunNotFoundError"
        checked = await self._flujo(fleet, "check", "tests.integration.pipelines", "--json")
        assert checked["pipelines"]["digest"] == []
