"""What follows a decision if everything simply succeeds: decided ahead, so that commits can go on by themselves. Pure.

`advance()` is asked what it would decide on outcomes that are not there yet. Whatever is more than one plain dispatch ends
the outlook: a split, a join, a pause, a context that changes, the end of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flujo_client.execution.advance import advance
from flujo_client.execution.decision import FRESH, Decision, RunView
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.replies import Dispatch
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import StepSpec

__all__ = ["FARTHEST", "Outlooks", "outlook"]

#: Steps that are decided ahead at the most.
FARTHEST = 16

#: Outlooks that are remembered; those made longest ago go first.
_MOST_KNOWN = 256


def outlook(run: RunView, decision: Decision) -> Iterator[tuple[str, Dispatch]]:
    """Each dispatch that would follow a decision, with the path after whose success it comes.

    Args:
        run: As the decision was made on it.
    """
    if run.spec.quantiles:
        return  # what is estimated depends on when it is asked
    last, unstored = _only_dispatch(run, decision), False
    for _ in range(FARTHEST):
        if last is None or not _is_plain(run, last):
            return
        run = replace(run, nodes={**run.nodes, **decision.nodes}, status=decision.status, free=None)
        success = {"attempt": str(last.attempt), "data": "{}"}
        event = Event(id="ahead", kind=EventKind.SUCCEEDED, path=last.path, fields=success)
        decision = advance(run, [event])
        following = _only_dispatch(run, decision)
        if following is None or following.attempt != 1 or following.queue != last.queue:
            return
        step = _step_at(run, following.path)
        if step is None:
            return  # a question or a control step: what comes of it depends on more than that it follows
        unstored = unstored or any(node.output is not None for node in decision.nodes.values())
        if unstored and step.wants_context:
            return  # it may ask for the output of a composite, which is found by what a manager has yet to store
        yield last.path, following
        last = following


class Outlooks:
    """Outlooks, remembered where they are the same for every run of a pipeline."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, tuple[str, ...]], tuple[tuple[str, Dispatch], ...]] = {}

    def of(self, run: RunView, decision: Decision) -> Iterator[tuple[str, Dispatch]]:
        """See `outlook`."""
        first = _only_dispatch(run, decision)
        if first is None or run.spec.quantiles:
            return iter(())
        key = (run.spec.content_hash, first.path, run.accounts)
        if first.attempt != 1 or not first.path.isdigit():
            return outlook(run, decision)  # values of this run's own nodes are in it
        if key in self._known:
            return iter(self._known[key])
        if any(step.reads or step.wants_context for step in run.spec.steps()):
            return outlook(run, decision)  # what it gets of contexts and earlier outputs is each run's own
        while len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[key] = tuple(outlook(run, decision))
        return iter(self._known[key])


def _only_dispatch(run: RunView, decision: Decision) -> Dispatch | None:
    """The one attempt that is under way after a decision that is nothing but its dispatch; None if there is more to it."""
    more = (decision.woken, decision.splits, decision.branch_ends, decision.alarms, decision.warnings, decision.missing)
    if any(more) or decision.needs_free or decision.incomplete or decision.status is not RunStatus.RUNNING:
        return None
    root = decision.nodes.get("root") or run.nodes.get("root", FRESH)
    if root.active != 1 or root.background:
        return None
    if not decision.dispatches:
        return None
    *before, last = decision.dispatches
    return last if all(dispatch.ahead for dispatch in before) and not last.delay_ms else None


def _is_plain(run: RunView, dispatch: Dispatch) -> bool:
    """Whether an attempt is of a step whose success says nothing but that it succeeded."""
    node = _step_at(run, dispatch.path)
    return node is not None and not node.updates_context and node.sink_to is None


def _step_at(run: RunView, path: str) -> StepSpec | None:
    """The plain step at a path; None for anything else."""
    node = None if "!" in path else run.spec.node(path)
    return node if isinstance(node, StepSpec) and node.turn is None else None
