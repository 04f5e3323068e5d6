"""Trace context as it travels: W3C traceparent in run records, task records and messages."""

from __future__ import annotations

import logging
import os
from importlib import metadata

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["configure_sdk", "context_of", "get_tracer", "traceparent_of"]

logger = logging.getLogger(__name__)

_PROPAGATOR = TraceContextTextMapPropagator()


def get_tracer(name: str) -> Tracer:
    """The tracer of one package; does nothing until an SDK is set up at an entry point."""
    return trace.get_tracer(name)


def traceparent_of(span: Span) -> str:
    """The W3C traceparent of a span; '' when nothing records."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier.get("traceparent", "")


def context_of(traceparent: str) -> Context | None:
    """The context whose current span a traceparent names; None when it is ''."""
    return _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None


def configure_sdk(service_name: str) -> None:
    """Set up OpenTelemetry's SDK in this process; call it at an entry point, once, and after a fork.

    Does nothing unless the standard variables ask for it: OTEL_TRACES_EXPORTER=console, or OTEL_EXPORTER_OTLP_ENDPOINT
    with the extra `otel` installed.
    """
    exporter = _exporter()
    if exporter is None:
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service_name)})
    )
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)


def _exporter() -> SpanExporter | None:
    kind = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if kind == "console":
        return ConsoleSpanExporter(formatter=lambda span: span.to_json(indent=None) + "\n")
    if kind in ("", "otlp") and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        for entry_point in metadata.entry_points(group="opentelemetry_traces_exporter", name="otlp_proto_http"):
            exporter: SpanExporter = entry_point.load()()
            return exporter
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set but no exporter is installed: pip install 'flujo-distributed[otel]'"
        )
    return None
