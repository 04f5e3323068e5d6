"""Trace context in messages, and what the OTEL_* variables set up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flujo_client.protocol.tracing import configure_sdk, context_of, traceparent_of

Configure = Callable[[], TracerProvider | None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """`configure_sdk`, but its provider comes to the test: a process can have one only once, and keeps it."""
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"):
        monkeypatch.delenv(name, raising=False)
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)

    def call() -> TracerProvider | None:
        configure_sdk("flujo-test")
        return providers[0] if providers else None

    yield call
    for provider in providers:
        provider.shutdown()


#: An OTLP exporter as a distribution that is installed: a module, and an entry point that names it.
EXPORTER = """\
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
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
    [{}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, {"OTEL_TRACES_EXPORTER": "otlp"}],
    ids=str,
)
def test_without_a_wish_nothing_is_set_up(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert configure() is None


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

    provider = configure()

    assert provider is not None
    provider.get_tracer("test").start_span("a step").end()
    provider.force_flush()
    (exporter,) = otlp_exporters()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.resource.attributes["service.name"]) == ("a step", name)


def test_a_missing_otlp_exporter_is_warned_of_with_what_to_install(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(sys, "path", [])  # where installed distributions are looked for

    assert configure() is None
    assert "pip install 'flujo-distributed[otel]'" in caplog.text


def test_the_console_exporter_is_set_up_where_it_is_wished(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")

    provider = configure()

    assert provider is not None
    assert provider.resource.attributes["service.name"] == "flujo-test"


def test_the_console_exporter_writes_each_span_on_a_line() -> None:
    script = """
from flujo_client.protocol.tracing import configure_sdk, get_tracer
configure_sdk("flujo-test")
for name in ("one", "two"):
    get_tracer("test").start_span(name).end()
"""
    environment = {**os.environ, "OTEL_TRACES_EXPORTER": "console"}

    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == ["one", "two"]
