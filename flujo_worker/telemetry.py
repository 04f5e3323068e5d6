"""Names and units of every span attribute and metric of the worker, in one place.

Semantic conventions: messaging (https://opentelemetry.io/docs/specs/semconv/messaging/) for the message, `flujo.*` for
what they do not know. Prompts and outputs are never recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind

from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.tracing import configure_sdk, context_of, get_tracer

__all__ = ["StepMetrics", "flush_telemetry", "process_span", "set_up_telemetry"]


class StepMetrics:
    """The worker's metrics. They do nothing until an SDK is set up."""

    def __init__(self) -> None:
        meter = metrics.get_meter("flujo_worker")
        self.duration = meter.create_histogram(
            "messaging.process.duration", unit="s", description="From the claim of an attempt to its commit"
        )
        self.outcomes = meter.create_counter(
            "flujo.step.outcomes", unit="{attempt}", description="Attempts by how they ended"
        )
        self.usage = meter.create_counter(
            "flujo.step.usage", unit="1", description="What attempts used, by meter; nano-USD for cost"
        )

    def record(self, label: str, outcome: str, seconds: float, usage: Mapping[str, int]) -> None:
        """Count an attempt that was claimed."""
        labels = {"flujo.step.label": label, "flujo.step.outcome": outcome}
        self.duration.record(seconds, labels)
        self.outcomes.add(1, labels)
        for meter, amount in usage.items():
            self.usage.add(amount, {"flujo.step.label": label, "flujo.meter": meter})


@contextmanager
def process_span(
    ref: StepRef, queue: str, message_traceparent: str, run_traceparent: str, *, alone: bool
) -> Iterator[Span]:
    """The CONSUMER span of one attempt.

    Args:
        ref: The attempt.
        queue: The broker's name of the queue.
        message_traceparent: Of the message's PRODUCER span.
        run_traceparent: Of the run.
        alone: The message carries this attempt only: its span is the parent. If not, it is linked and the run is the
            parent, as the message may carry attempts of several runs.
    """
    parent = context_of(message_traceparent if alone else run_traceparent)
    links = []
    if not alone and message_traceparent:
        links = [Link(trace.get_current_span(context_of(message_traceparent)).get_span_context())]
    with get_tracer("flujo_worker").start_as_current_span(
        f"process {queue}",
        context=parent,
        kind=SpanKind.CONSUMER,
        links=links,
        record_exception=False,
        set_status_on_exception=False,
        attributes={
            "messaging.system": "celery",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
            "messaging.message.conversation_id": ref.run_id,
            "flujo.run_id": ref.run_id,
            "flujo.step.path": ref.path,
            "flujo.step.label": ref.label,
            "flujo.step.attempt": ref.attempt,
        },
    ) as span:
        yield span


def set_up_telemetry() -> None:
    """Set up the SDK of this process, once, if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER asks for it."""
    configure_sdk("flujo-worker")


def flush_telemetry() -> None:
    """Send what was recorded and not sent yet; may take as long as the exporter does. Does nothing without an SDK."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush()
