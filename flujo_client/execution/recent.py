"""`RecentRuns`: runs as this manager stored them last, so that the outcome a wake-up carries need not be read again.

Only advance.lua changes a run's nodes, and adopt.lua its owner; both move its revision, which the next advance.lua
compares (restore.lua writes only runs that are not there). What is kept here is therefore the run as it is, or a
decision made on it is refused and made again on what Redis says.
"""

from __future__ import annotations

from dataclasses import replace

from flujo_client.execution.decision import Decision, RunView
from flujo_client.execution.paths import lineage_of
from flujo_client.protocol.messages import Event, WakeUp
from flujo_client.protocol.quota import parse_amounts
from flujo_client.protocol.replies import Advanced, LoadedRun

__all__ = ["RecentRuns"]

#: Runs that are kept; those stored longest ago go first.
_MOST_RUNS = 2_000

#: Nodes of a run that are kept; one that has more in view is read again.
_MOST_NODES = 256


class RecentRuns:
    """What was stored of runs, each until its next outcome is heard of."""

    def __init__(self) -> None:
        self._stored: dict[str, tuple[LoadedRun, RunView]] = {}
        self._heard: dict[str, Event] = {}
        self._created: dict[str, Event] = {}

    def keep(self, loaded: LoadedRun, run: RunView, decision: Decision, operation: str, advanced: Advanced) -> None:
        """Remember a run as it is after a decision was stored, if something more is to happen to it."""
        nodes = {**run.nodes, **decision.nodes}
        if decision.status.terminal or advanced.dirty or decision.incomplete or len(nodes) > _MOST_NODES:
            return
        if run.spec.quantiles:
            return  # what was learned of its steps is read with it
        changed = {
            "revision": str(advanced.revision),
            "operation": operation,
            "applied": decision.applied or loaded.record["applied"],
            "status": decision.status.value,
        }
        record = LoadedRun(record={**loaded.record, **changed}, events=[], nodes={}, free={})
        while len(self._stored) >= _MOST_RUNS:
            del self._stored[next(iter(self._stored))]
        self._stored[run.run_id] = record, replace(run, status=decision.status, nodes=nodes, free=None)

    def hear(self, wake_up: WakeUp) -> None:
        """Take the outcome that a wake-up carries, if it is the very next one of a run as it is remembered."""
        stored, event = self._stored.get(wake_up.run_id), wake_up.event
        if stored is None and event is not None and "limits" in event.fields:  # create_run.lua; a fork begins as well
            self._created[wake_up.run_id] = event
        if stored is None or event is None or stored[0].record["applied"] != wake_up.before:
            return
        if all(path in stored[1].nodes for path in lineage_of(event.path)):
            self._heard[wake_up.run_id] = event

    def take(self, run_id: str) -> tuple[LoadedRun, RunView] | None:
        """A run with the outcome that was heard of, once; None if there is none: the run must be read."""
        event, stored = self._heard.pop(run_id, None), self._stored.pop(run_id, None)
        if event is None or stored is None:
            return None
        loaded, run = stored
        self._created.pop(run_id, None)
        return LoadedRun(record=loaded.record, events=[event], nodes={}, free={}, remembered=True), run

    def take_new(self, run_id: str) -> LoadedRun | None:
        """A run of which nothing is known but that it was created, as create_run.lua has stored it; once."""
        event = self._created.pop(run_id, None)
        if event is None:
            return None
        record = {
            "run_id": run_id,
            "status": "running",
            "gate": "open",
            "revision": "0",
            "operation": "",
            "applied": "0-0",
        }
        free = {"root": parse_amounts(event.fields["limits"])}
        return LoadedRun(record | event.fields, [event], {}, free, remembered=True)
