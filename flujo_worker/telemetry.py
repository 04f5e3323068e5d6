"""The worker's spans: names and attributes in one place. Metrics: `flujo_client/protocol/metrics.py`.

Semantic conventions: messaging (https://opentelemetry.io/docs/specs/semconv/messaging/) for the message, `flujo.*` for
what they do not know. Prompts and outputs are never recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind

from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.queues import task_id
from flujo_client.protocol.tracing import configure_sdk, context_of, get_tracer, records

__all__ = ["note_refusal", "note_usage", "process_span", "set_up_telemetry"]


@contextmanager
def process_span(
    ref: StepRef, queue: str, message_traceparent: str, run_traceparent: str, *, alone: bool, system: str
) -> Iterator[Span]:
    """The CONSUMER span of one attempt.

    Args:
        ref: The attempt.
        queue: The broker's name of the queue.
        message_traceparent: Of the message's PRODUCER span.
        run_traceparent: Of the run.
        alone: The message carries this attempt only: its span is the parent. If not, it is linked and the run is the
            parent, as the message may carry attempts of several runs.
        system: The broker, as `Settings.messaging_system` names it.
    """
    if not records():
        yield INVALID_SPAN
        return
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
            "messaging.system": system,
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
            "messaging.message.conversation_id": ref.run_id,
            "flujo.run_id": ref.run_id,
            "flujo.step.path": ref.path,
            "flujo.step.label": ref.label,
            "flujo.step.attempt": ref.attempt,
            **({"messaging.message.id": task_id(ref.run_id, ref.path, ref.attempt)} if alone else {}),
        },
    ) as span:
        yield span


def note_usage(span: Span, usage: Mapping[str, int]) -> None:
    """What an attempt was charged for, by meter, on its span."""
    span.add_event("flujo.budget.settled", usage)


def note_refusal(facts: Mapping[str, Any]) -> None:
    """The budget refused a running step more, on the span that the step is in."""
    trace.get_current_span().add_event("flujo.budget.refused", facts)


def set_up_telemetry() -> None:
    """Set up the SDK of this process, once, if the OTEL_* variables ask for it."""
    configure_sdk("flujo-worker")
