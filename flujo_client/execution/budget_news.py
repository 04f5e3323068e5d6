"""Tells operators what happens to the budgets of runs: a metric, and a span with an event for each."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from flujo_client.execution.decision import RunView
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.metrics import ManagerMetrics
from flujo_client.protocol.quota import parse_amounts
from flujo_client.protocol.tracing import context_of, get_tracer

__all__ = ["report_budget"]

logger = logging.getLogger(__name__)

#: What a span keeps of events by default.
_MOST_SPAN_EVENTS = 128

_FACTS = ("account", "meter", "asked", "free", "used", "limit", "overrun")
_NEWS = (EventKind.BLOCKED, EventKind.UNBLOCKED, EventKind.REFUSED, EventKind.LIMIT_WARNING)


@dataclass(frozen=True, slots=True)
class _News:
    """One thing that happened to a budget, by the name that the metric has for it."""

    name: str
    event: Event
    facts: dict[str, str]


def report_budget(run: RunView, events: Sequence[Event], applied: str, metrics: ManagerMetrics) -> None:
    """Report what a stored decision has taken note of: each event once, since each is applied once.

    Args:
        events: What the decision was made of.
        applied: The last of them that it applied.
    """
    limited = run.limits or any(event.kind is EventKind.REFUSED for event in events)  # by an account above the run
    news = list(_news(events, applied)) if limited else []
    for at in range(0, len(news), _MOST_SPAN_EVENTS):
        with get_tracer("flujo_client").start_as_current_span(
            f"budget {run.spec.name}",
            context=context_of(run.traceparent),
            attributes={"flujo.run_id": run.run_id, "flujo.pipeline.name": run.spec.name},
        ) as span:
            for item in news[at : at + _MOST_SPAN_EVENTS]:
                place: dict[str, str | int] = {
                    "flujo.step.path": item.event.path,
                    "flujo.step.attempt": item.event.attempt,
                }
                span.add_event(f"flujo.budget.{item.name}", {**place, **item.facts}, _nanoseconds(item.event))
    for item in news:
        metrics.budget_event(run.spec.name, item.name, item.facts.get("meter", ""))
        if item.name == "limit_warning":
            logger.warning("a run has used 80 % of a limit", extra={"run_id": run.run_id, **item.facts})


def _news(events: Sequence[Event], applied: str) -> Iterator[_News]:
    for event in events if applied else ():
        if event.kind in _NEWS:
            yield _News(event.kind.value, event, {key: event.fields[key] for key in _FACTS if key in event.fields})
        elif event.fields.get("overrun"):
            used = parse_amounts(event.fields["usage"])
            for meter, amount in parse_amounts(event.fields["overrun"]).items():
                told = {"asked": used[meter], "free": used[meter] - amount, "overrun": amount}
                yield _News("overrun", event, {"meter": meter} | {name: str(fact) for name, fact in told.items()})
        elif event.kind is EventKind.FAILED and "UsageLimitExceededError" in event.fields.get("data", ""):
            error = event.data["error"]  # the step asked for more while it ran
            if error["type"] == "UsageLimitExceededError":
                facts = {key: str(error["data"][key]) for key in _FACTS if key in error["data"]}
                yield _News("refused", event, facts)
        if event.id == applied:
            return


def _nanoseconds(event: Event) -> int:
    """When it was appended: its id begins with Redis' time, ms."""
    return int(event.id.partition("-")[0]) * 1_000_000
