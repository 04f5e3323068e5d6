"""Trace context as it travels: W3C traceparent in run records, task records and messages; and the SDK's set-up."""

from __future__ import annotations

import logging
import os
import sys
from importlib import metadata
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["configure_sdk", "context_of", "flush_sdk", "get_tracer", "new_root", "records", "traceparent_of"]

logger = logging.getLogger(__name__)

_PROPAGATOR = TraceContextTextMapPropagator()


def get_tracer(name: str) -> Tracer:
    """The tracer of one package; does nothing until an SDK is set up at an entry point."""
    return trace.get_tracer(name)


def records() -> bool:
    """Whether anybody records spans here. If not, what comes in with a message goes on as it came."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def traceparent_of(span: Span) -> str:
    """The W3C traceparent of a span; '' when nothing records."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def context_of(traceparent: str) -> Context | None:
    """The context whose current span a traceparent names; None when it is ''."""
    return _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None


def new_root() -> str:
    """The traceparent of a span that nobody records, for all that follows to be one trace: of a run from a process without an SDK."""
    ids = RandomIdGenerator()
    sampled = TraceFlags(TraceFlags.SAMPLED)
    return traceparent_of(
        NonRecordingSpan(SpanContext(ids.generate_trace_id(), ids.generate_span_id(), False, sampled))
    )


def configure_sdk(service_name: str) -> None:
    """Set up OpenTelemetry's SDK in this process; call it at an entry point, once, and after a fork.

    Does nothing unless the standard variables ask for it: OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER, each `console`
    or `otlp`, or OTEL_EXPORTER_OTLP_ENDPOINT for both; the extra `otel` has the exporters of the latter. The console is
    stderr: stdout belongs to what commands print.
    """
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service_name)})
    spans = _exporter("traces", _console_spans)
    if spans is not None:
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=500))
        trace.set_tracer_provider(tracers)
    measurements = _exporter("metrics", _console_metrics)
    if measurements is not None:
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(measurements)], resource=resource))


def flush_sdk() -> None:
    """Send what was recorded and not sent yet; may take as long as the exporters do. Does nothing without an SDK."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        if isinstance(provider, TracerProvider | MeterProvider):
            provider.force_flush()


def _console_spans() -> Any:
    return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")


def _console_metrics() -> Any:
    return ConsoleMetricExporter(out=sys.stderr, formatter=lambda data: data.to_json(indent=None) + "\n")


def _exporter(signal: str, console: Any) -> Any:
    """The exporter that the variables ask for; None if they do not, or it is not installed."""
    kind = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "")
    if kind == "console":
        return console()
    if kind in ("", "otlp") and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        for entry_point in metadata.entry_points(group=f"opentelemetry_{signal}_exporter", name="otlp_proto_http"):
            return entry_point.load()()
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set but no exporter of %s is installed: pip install 'flujo-distributed[otel]'",
            signal,
        )
    return None
