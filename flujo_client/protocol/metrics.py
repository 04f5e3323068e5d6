"""Names and units of every metric, in one place. Nothing is counted until an SDK is set up at an entry point.

Semantic conventions: messaging (https://opentelemetry.io/docs/specs/semconv/messaging/) for what is done with messages,
`flujo.*` for what they do not know. Labels are bounded: names of pipelines, steps and accounts, never ids of runs.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import metrics

__all__ = ["ManagerMetrics", "StepMetrics"]


class StepMetrics:
    """What a worker counts.

    Args:
        system: The broker, as `Settings.messaging_system` names it.
    """

    def __init__(self, system: str) -> None:
        meter = metrics.get_meter("flujo_worker")
        self._system = system
        self.duration = meter.create_histogram(
            "messaging.process.duration", unit="s", description="From the claim of an attempt to its commit"
        )
        self.outcomes = meter.create_counter(
            "flujo.step.outcomes", unit="{attempt}", description="Attempts by how they ended"
        )
        self.usage = meter.create_counter(
            "flujo.step.usage", unit="1", description="What attempts used, by meter; nano-USD for cost"
        )
        self.delays = meter.create_counter(
            "flujo.account.delays",
            unit="{delay}",
            description="How often a named account let an attempt, or a call, wait",
        )
        self.delay = meter.create_histogram(
            "flujo.account.delay",
            unit="s",
            description="Until a window has room, where nothing else is taken meanwhile",
        )

    def record(self, queue: str, label: str, outcome: str, seconds: float, usage: Mapping[str, int]) -> None:
        """Count an attempt that was claimed.

        Args:
            queue: The broker's name of the queue that it came from.
            label: The step, as Flower shows it.
        """
        labels = {"flujo.step.label": label, "flujo.step.outcome": outcome}
        message = {
            "messaging.system": self._system,
            "messaging.operation.name": "process",
            "messaging.destination.name": queue,
        }
        self.duration.record(seconds, message | labels)
        self.outcomes.add(1, labels)
        for meter, amount in usage.items():
            self.usage.add(amount, {"flujo.step.label": label, "flujo.meter": meter})

    def delayed(self, account: str, account_meter: str, wait_ms: int | None) -> None:
        """Count that a named account had no room.

        Args:
            account_meter: Which of its meters was short.
            wait_ms: Until its window has room again; None if only others can make room.
        """
        labels = {"flujo.account": account, "flujo.meter": account_meter}
        self.delays.add(1, labels)
        if wait_ms is not None:
            self.delay.record(wait_ms / 1000, labels)


class ManagerMetrics:
    """What a manager counts."""

    def __init__(self) -> None:
        meter = metrics.get_meter("flujo_client")
        self.decisions = meter.create_counter(
            "flujo.manager.decisions", unit="{decision}", description="Decisions that this manager has stored"
        )
        self.dispatches = meter.create_counter(
            "flujo.manager.dispatches", unit="{attempt}", description="Attempts that those decisions have queued"
        )
        self.ended = meter.create_counter(
            "flujo.run.ended", unit="{run}", description="Runs whose end this manager has stored, by status"
        )
        self.budgets = meter.create_counter(
            "flujo.budget.events",
            unit="{event}",
            description="Budgets that block, unblock, refuse, warn or are overrun",
        )

    def decided(self, pipeline: str, dispatches: int) -> None:
        """Count a decision that was stored, and what it has queued."""
        labels = {"flujo.pipeline.name": pipeline}
        self.decisions.add(1, labels)
        self.dispatches.add(dispatches, labels)

    def budget_event(self, pipeline: str, event: str, budget_meter: str) -> None:
        """Count what happened to a run's budget.

        Args:
            event: blocked, unblocked, refused, limit_warning or overrun.
            budget_meter: Which meter was short; '' where that is not said.
        """
        labels = {"flujo.pipeline.name": pipeline, "flujo.budget.event": event, "flujo.meter": budget_meter}
        self.budgets.add(1, labels)

    def run_ended(self, status: str) -> None:
        """Count the end of a run."""
        self.ended.add(1, {"flujo.run.status": status})
