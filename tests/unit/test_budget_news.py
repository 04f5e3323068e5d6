"""What operators are told of budgets: metrics, and spans with an event for each thing that happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flujo_client import Account, Flujo, Pipeline, Step, StepRun, UsageLimitExceededError, UsageLimits, step
from flujo_client.execution.budget_news import report_budget
from flujo_client.execution.decision import RunView
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.metrics import ManagerMetrics, StepMetrics
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import PipelineSpec, SequenceSpec


class Telemetry:
    """What was recorded of spans and metrics."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()

    def events(self) -> Counter[str]:
        """Names of the events on all spans."""
        return Counter(event.name for span in self.spans.get_finished_spans() for event in span.events)

    def event(self, name: str) -> dict[str, Any]:
        """The attributes of the first event of a name."""
        events = (event for span in self.spans.get_finished_spans() for event in span.events)
        return next(dict(event.attributes or {}) for event in events if event.name == name)

    def counts(self, metric_name: str, label: str) -> Counter[Any]:
        """A counter's values, or how often a histogram was told, by one of its labels."""
        found: Counter[Any] = Counter()
        data = self.reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points if metric.name == metric_name else ():
                        assert isinstance(point, NumberDataPoint | HistogramDataPoint)
                        value = point.value if isinstance(point, NumberDataPoint) else point.count
                        found[(point.attributes or {})[label]] += int(value)
        return found


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    recorded = Telemetry()
    tracers, meters = TracerProvider(), MeterProvider([recorded.reader])
    tracers.add_span_processor(SimpleSpanProcessor(recorded.spans))
    monkeypatch.setattr(trace, "get_tracer", tracers.get_tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracers)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    yield recorded
    meters.shutdown()


@step(expected_tokens=40, max_retries=0)
async def greedy(value: int, run: StepRun) -> int:
    run.usage.add(tokens=10, calls=1)
    return value


crowd = Pipeline([Step.parallel("crowd", {f"b{index}": greedy for index in range(6)})], name="crowd")


async def test_blocks_and_what_was_used_are_counted_and_stand_on_spans(telemetry: Telemetry) -> None:
    await Flujo(crowd, usage_limits=UsageLimits(total_tokens_limit=100, meters={"calls": 7})).run_async(1)

    counted = telemetry.counts("flujo.budget.events", "flujo.budget.event")
    assert counted["blocked"] >= 3
    assert counted["limit_warning"] == 1
    assert telemetry.counts("flujo.step.usage", "flujo.meter") == {"tokens": 60, "calls": 6}
    seen = telemetry.events()
    assert seen["flujo.budget.settled"] == 6
    assert seen["flujo.budget.blocked"] == counted["blocked"]
    assert telemetry.event("flujo.budget.settled") == {"tokens": 10, "calls": 1}
    assert telemetry.event("flujo.budget.limit_warning")["used"] == "6"


async def test_a_refusal_before_a_step_is_counted_with_its_facts(telemetry: Telemetry) -> None:
    with pytest.raises(UsageLimitExceededError):
        await Flujo(crowd, usage_limits=UsageLimits(total_tokens_limit=35)).run_async(1)

    assert telemetry.counts("flujo.budget.events", "flujo.budget.event")["refused"] == 1
    facts = telemetry.event("flujo.budget.refused")
    assert (facts["meter"], facts["asked"], facts["free"]) == ("tokens", "40", "35")
    assert facts["account"].startswith("0.")


async def test_a_refusal_inside_a_step_is_counted_with_its_facts(telemetry: Telemetry) -> None:
    @step(max_retries=0)
    async def looping(value: int, run: StepRun) -> int:
        await run.usage.reserve(tokens=20)
        return value

    with pytest.raises(UsageLimitExceededError):
        await Flujo(looping, usage_limits=UsageLimits(total_tokens_limit=10)).run_async(1)

    assert telemetry.counts("flujo.budget.events", "flujo.budget.event") == {"refused": 1}
    assert telemetry.events()["flujo.budget.refused"] == 2  # on the step's own span, and on the run's
    assert telemetry.event("flujo.budget.refused") == {"account": "root", "meter": "tokens", "asked": 20, "free": 10}


async def test_what_no_budget_covered_is_counted(telemetry: Telemetry) -> None:
    @step(max_retries=0)
    async def careless(value: int, run: StepRun) -> int:
        run.usage.add(tokens=25)
        return value

    with pytest.raises(UsageLimitExceededError):
        await Flujo(careless, usage_limits=UsageLimits(total_tokens_limit=10)).run_async(1)

    counted = telemetry.counts("flujo.budget.events", "flujo.budget.event")
    assert counted == {"limit_warning": 1, "overrun": 1}
    told = telemetry.event("flujo.budget.overrun")
    assert (told["asked"], told["free"], told["overrun"]) == ("25", "10", "15")


def test_each_event_is_reported_by_the_decision_that_applies_it_and_none_is_dropped_from_a_span(
    telemetry: Telemetry,
) -> None:
    spec = PipelineSpec(name="p", root=SequenceSpec(nodes=()))
    run = RunView(run_id="r", spec=spec, status=RunStatus.RUNNING, nodes={}, limits={"tokens": 1})
    events = [Event(id=f"{at}-0", kind=EventKind.BLOCKED, path="0", fields={"meter": "tokens"}) for at in range(1, 302)]

    report_budget(run, events, "", ManagerMetrics())
    report_budget(run, events, "300-0", ManagerMetrics())
    report_budget(run, events[300:], "301-0", ManagerMetrics())

    assert telemetry.counts("flujo.budget.events", "flujo.budget.event") == {"blocked": 301}
    assert telemetry.events()["flujo.budget.blocked"] == 301


async def test_a_refusal_by_a_named_account_is_counted_although_the_run_has_no_limits(telemetry: Telemetry) -> None:
    poor = Account(name="poor", limits=UsageLimits(total_tokens_limit=30))

    with pytest.raises(UsageLimitExceededError):
        await Flujo(crowd, accounts=[poor]).run_async(1)

    assert telemetry.counts("flujo.budget.events", "flujo.budget.event")["refused"] >= 1
    assert telemetry.event("flujo.budget.refused")["account"] == "poor"


async def test_what_named_accounts_delay_is_counted_and_for_how_long_where_a_window_says_it(
    telemetry: Telemetry,
) -> None:
    second = UsageLimits(meters={"requests": 3})
    pace = Account(name="pace", limits=second, window=timedelta(seconds=1), when_exhausted="wait")

    await Flujo(crowd, accounts=[pace]).run_async(1)
    StepMetrics("memory").delayed("narrow", "slots", None)  # only others can make room

    often, long = (telemetry.counts(f"flujo.account.{name}", "flujo.account") for name in ("delays", "delay"))
    assert often["pace"] == long["pace"] >= 3
    assert (often["narrow"], long["narrow"]) == (1, 0)
