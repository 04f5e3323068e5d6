"""Trace context in messages, and what the OTEL_* variables set up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flujo_client.protocol.tracing import configure_sdk, context_of, flush_sdk, new_root, traceparent_of

Providers = tuple[TracerProvider | None, MeterProvider | None]
Configure = Callable[[], Providers]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """`configure_sdk`, but its providers come to the test: a process can have them only once, and keeps them."""
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    tracers: list[TracerProvider] = []
    meters: list[MeterProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", tracers.append)
    monkeypatch.setattr(metrics, "set_meter_provider", meters.append)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: next(iter(tracers), None))
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: next(iter(meters), None))

    def call() -> Providers:
        configure_sdk("flujo-test")
        return next(iter(tracers), None), next(iter(meters), None)

    yield call
    for tracer in tracers:
        tracer.shutdown()
    for meter in meters:
        meter.shutdown()


#: OTLP exporters as a distribution that is installed: a module, and entry points that name them.
EXPORTER = """\
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
class Measurements(MetricExporter):
    exported = []
    def export(self, metrics_data, timeout_millis=10_000, **more):
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS
    def force_flush(self, timeout_millis=10_000):
        return True
    def shutdown(self, timeout_millis=30_000, **more):
        pass
class Exporter(InMemorySpanExporter):
    made = []
    def __init__(self):
        super().__init__()
        self.made.append(self)
"""


@pytest.fixture
def otlp_exporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[InMemorySpanExporter]]:
    """Installs an OTLP exporter; gives those that were made."""
    (tmp_path / "an_exporter.py").write_text(EXPORTER)
    information = tmp_path / "an_exporter-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: an-exporter\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[opentelemetry_traces_exporter]\notlp_proto_http = an_exporter:Exporter\n"
        "[opentelemetry_metrics_exporter]\notlp_proto_http = an_exporter:Measurements\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "an_exporter", raising=False)
    return lambda: sys.modules["an_exporter"].Exporter.made


def test_a_span_comes_back_as_the_context_that_its_traceparent_names() -> None:
    span = TracerProvider().get_tracer("test").start_span("x")

    context = context_of(traceparent_of(span))

    assert context is not None
    assert trace.get_current_span(context).get_span_context().span_id == span.get_span_context().span_id


def test_nothing_is_sent_and_nothing_is_made_of_it_where_nothing_records() -> None:
    assert traceparent_of(trace.INVALID_SPAN) == ""
    assert context_of("") is None


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x",
        },
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"},
    ],
    ids=str,
)
def test_without_a_wish_nothing_is_set_up(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert configure() == (None, None)
    flush_sdk()


@pytest.mark.parametrize("kind", ["", "otlp"])
@pytest.mark.parametrize(("given", "name"), [("", "flujo-test"), ("ours", "ours")])
def test_spans_go_to_the_installed_otlp_exporter_under_the_services_name(
    configure: Configure,
    otlp_exporters: Callable[[], list[InMemorySpanExporter]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    given: str,
    name: str,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", kind)
    if given:
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)

    provider, meters = configure()

    assert provider is not None
    assert meters is not None
    provider.get_tracer("test").start_span("a step").end()
    meters.get_meter("test").create_counter("steps").add(1)
    flush_sdk()
    (measured,) = sys.modules["an_exporter"].Measurements.exported
    (resource,) = measured.resource_metrics
    assert resource.scope_metrics[0].metrics[0].name == "steps"
    assert resource.resource.attributes["service.name"] == name
    (exporter,) = otlp_exporters()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.resource.attributes["service.name"]) == ("a step", name)


def test_a_missing_otlp_exporter_is_warned_of_with_what_to_install(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(sys, "path", [])  # where installed distributions are looked for

    assert configure() == (None, None)
    assert "pip install 'flujo-distributed[otel]'" in caplog.text


def test_the_console_exporter_is_set_up_where_it_is_wished(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "console")

    provider, meters = configure()

    assert provider is not None
    assert meters is not None
    assert provider.resource.attributes["service.name"] == "flujo-test"


def test_spans_and_metrics_on_the_console_are_a_line_each_on_stderr() -> None:
    script = """
from flujo_client.protocol.metrics import ManagerMetrics
from flujo_client.protocol.tracing import configure_sdk, get_tracer
configure_sdk("flujo-test")
for name in ("one", "two"):
    get_tracer("test").start_span(name).end()
ManagerMetrics().run_ended("completed")
"""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    documents = [json.loads(line) for line in done.stderr.splitlines()]
    assert [document["name"] for document in documents if "name" in document] == ["one", "two"]
    (measured,) = (document for document in documents if "resource_metrics" in document)
    assert measured["resource_metrics"][0]["scope_metrics"][0]["metrics"][0]["name"] == "flujo.run.ended"
    assert done.stdout == ""


def test_a_root_that_nobody_records_is_a_trace_of_its_own_that_is_sampled() -> None:
    one, other = new_root(), new_root()

    context = context_of(one)
    assert context is not None
    span = trace.get_current_span(context).get_span_context()
    assert span.is_valid
    assert span.trace_flags.sampled
    assert one.split("-")[1] != other.split("-")[1]
