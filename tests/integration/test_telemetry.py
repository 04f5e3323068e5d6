"""Traces and metrics of runs that cross processes, whoever submits them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from flujo_client import AsyncFlujoClient, UsageLimits
from tests.integration.conftest import ROOT, Fleet


def _spans(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and '"trace_id"' in line]


def _metrics(text: str) -> set[str]:
    documents = [json.loads(line) for line in text.splitlines() if line.startswith('{"resource_metrics"')]
    return {
        metric["name"]
        for document in documents
        for resource in document["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }


SUBMITTED = {
    "command line": ("-m", "flujo_client.cli", "submit", "digest", '{"url": "abc"}', "--wait", "--run-id", "cli"),
    "no SDK": (
        "-c",
        """
from flujo_client import FlujoClient
with FlujoClient() as client:
    client.submit("digest", {"url": "abc"}, run_id="plain").result(60)
""",
    ),
    "caller's manager": (
        "-c",
        """
from flujo_client import Flujo
from tests.integration.pipelines import digest
Flujo(digest).run({"url": "abc"}, run_id="own")
""",
    ),
}


async def test_every_run_is_one_trace_and_is_counted_whoever_submits_it(make_own_fleet: Callable[..., Fleet]) -> None:
    fleet = make_own_fleet(
        "telemetry",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
        OTEL_METRIC_EXPORT_INTERVAL="300",
    )
    fleet.manager()
    fleet.worker()
    async with AsyncFlujoClient(settings=fleet.settings()) as client:
        await fleet.published(client, "digest")
        await fleet.published(client, "crowd")
        limited = await client.submit("crowd", 1, usage_limits=UsageLimits(total_tokens_limit=100))
        await limited.result(timeout_s=60)
    outputs = []
    for words in SUBMITTED.values():
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, *words],
            env=fleet.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout + done.stderr)

    def everything() -> str:
        return fleet.logs_whole() + "".join(outputs)

    def spans_of(run_id: str) -> list[dict[str, Any]]:
        spans = [span for span in _spans(everything()) if "CONSUMER" in span["kind"]]
        found = [span for span in spans if span["attributes"]["flujo.run_id"] == run_id]
        return found if len(found) == 4 else []

    for run_id in ("cli", "plain", "own"):
        processed = await fleet.until(partial(spans_of, run_id), f"the spans of {run_id}")
        (trace_id,) = {span["context"]["trace_id"] for span in processed}
        spans = [span for span in _spans(everything()) if span["context"]["trace_id"] == trace_id]
        sent = {span["context"]["span_id"]: span for span in spans if "PRODUCER" in span["kind"]}
        for span in processed:
            producer = sent.get(span["parent_id"])
            if producer is not None:
                for name in ("messaging.system", "messaging.message.id", "messaging.destination.name"):
                    assert span["attributes"][name] == producer["attributes"][name]
        ids = {span["context"]["span_id"] for span in spans}
        roots = {span["parent_id"] for span in spans if span["parent_id"] not in ids}
        assert len(roots) == 1, "everything descends from one root"
        if run_id == "cli":
            assert roots == {None}, "the command line records the root itself"
    wanted = {"messaging.process.duration", "flujo.step.outcomes", "flujo.manager.decisions", "flujo.run.ended"}
    wanted |= {"flujo.step.usage", "flujo.budget.events"}
    await fleet.until(lambda: wanted <= _metrics(everything()), f"all are exported: {wanted}")
