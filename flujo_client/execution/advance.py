"""`advance()`: what happens to a run when something happened to one of its steps. Pure; the whole semantics of the DSL.

The doer (manager.py) gives it a view of the run and new events and stores its decision. A decision for an event may be
made in slices (`Decision.incomplete`): the event is then advanced again on the stored state, so every rule here first
asks what has been done already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flujo_client.execution.breach import end_over_budget, refused_call
from flujo_client.execution.dead_letters import give_up, revive
from flujo_client.execution.decision import Decision, LimitWarning, NodeState, NodeStatus, RunView
from flujo_client.execution.draft import Draft
from flujo_client.execution.kinds.background import cancel_body, is_cancelled, settle
from flujo_client.execution.kinds.table import KINDS
from flujo_client.execution.paths import control_of, node_of
from flujo_client.execution.pauses import ask_human, leaves_state, receive_answer
from flujo_client.execution.retry import after_failure, after_loss
from flujo_client.protocol.leaves import HANDLERS
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.quota import parse_amounts
from flujo_client.protocol.results import RunStatus

__all__ = ["advance"]


def advance(run: RunView, events: Sequence[Event]) -> Decision:
    """Decide what follows from new events.

    Args:
        run: The run, with the nodes on the events' paths.
        events: Its events after the last applied one, in order.
    """
    draft = Draft(run, KINDS)
    for event in events:
        draft.ahead = event.fields.get("ahead", "")
        if draft.state("root").cancelled and is_cancelled(draft, event.path):
            settle(draft, event)
        elif (
            not draft.status.terminal or event.kind is EventKind.CANCELLED
        ):  # a stored cancel came before any stored end
            _RULES[event.kind](draft, event)
        if draft.missing or draft.needs_free or draft.incomplete:
            break
        draft.applied = event.id
    return draft.decision()


def _on_created(draft: Draft, event: Event) -> None:
    if draft.state("root").status is NodeStatus.WAITING:
        context = ("ctx:root",) if draft.run.has_context else ()
        draft.update("root", status=NodeStatus.RUNNING, context=context)
    draft.enter(event.path)  # a fork goes on at several places, and deeper ones


def _on_succeeded(draft: Draft, event: Event) -> None:
    node = draft.state(event.path)
    if node.attempt != event.attempt:
        return
    if node.status is NodeStatus.DISPATCHED:
        _record_attempt(draft, event, status=NodeStatus.SUCCEEDED)
        _take_context(draft, event)
    if event.fields.get("overrun"):
        end_over_budget(draft, event.path, event.fields)
        return
    control, composite = control_of(event.path)[0], node_of(event.path)
    if control == HANDLERS:
        draft.handlers_returned(composite)
    elif control:
        draft.kind(composite).control_succeeded(draft, composite, draft.node(composite), event)
    elif not leaves_state(draft, event.path):
        draft.complete(event.path)


def _on_failed(draft: Draft, event: Event) -> None:
    node = draft.state(event.path)
    if node.attempt != event.attempt:
        return
    data = event.data
    if node.status is NodeStatus.DISPATCHED:
        node = _record_attempt(
            draft, event, failures=node.failures + 1, error=data["error"], keeps_output=data.get("keeps_output", False)
        )
        _take_context(draft, event)
    if event.fields.get("overrun"):
        end_over_budget(draft, event.path, event.fields)
        return
    if refused := refused_call(draft, event.path, data["error"]):
        end_over_budget(draft, event.path, refused)
        return
    if data.get("fatal"):
        draft.update(event.path, status=NodeStatus.FAILED)
        draft.end(RunStatus.FAILED, _placed(draft, event.path, data["error"]))
        return
    step, seed = draft.step(event.path), f"{draft.run.run_id}/{event.path}/{event.attempt}"
    decision = after_failure(step.retry, node.failures, data["error"]["type"], data.get("retryable", True), seed)
    if decision.again and not node.fallback:  # a fallback has one attempt
        if event.fields.get("context"):
            draft.dispatch_step(event.path, step, decision.delay_ms)
        else:
            draft.dispatch_again(event.path, decision.delay_ms)
        return
    if step.fallback is not None:
        draft.update(event.path, fallback=node.fallback + 1, original_error=node.original_error or data["error"])
        draft.dispatch_step(event.path, step.fallback)
        return
    if control_of(event.path)[0] == HANDLERS:
        draft.update(event.path, status=NodeStatus.FAILED)
        draft.update(node_of(event.path), status=NodeStatus.FAILED)
        draft.end(RunStatus.FAILED, _placed(draft, event.path, data["error"]))
        return
    draft.update(event.path, status=NodeStatus.FAILED)
    draft.fail(node_of(event.path), event.path)


def _on_paused(draft: Draft, event: Event) -> None:
    node = draft.state(event.path)
    if node.attempt != event.attempt or node.status is not NodeStatus.DISPATCHED:
        return
    _record_attempt(draft, event)
    _take_context(draft, event)
    if event.fields.get("overrun"):
        end_over_budget(draft, event.path, event.fields)
    else:
        ask_human(draft, event)


def _on_answered(draft: Draft, event: Event) -> None:
    if draft.state(event.path).answer is None:
        receive_answer(draft, event)


def _on_reminded(draft: Draft, event: Event) -> None:
    if draft.state(event.path).status is NodeStatus.PAUSED:
        draft.update(event.path, reminders=int(event.fields["number"]))


def _on_blocked(draft: Draft, event: Event) -> None:
    node = draft.state(event.path)
    if node.attempt == event.attempt and node.status is NodeStatus.DISPATCHED:
        draft.update(event.path, status=NodeStatus.BLOCKED)


def _on_unblocked(draft: Draft, event: Event) -> None:
    if draft.state(event.path).attempt == event.attempt:
        draft.wake(event.path)


def _on_revived(draft: Draft, event: Event) -> None:
    if event.fields["how"] == "cancel":
        cancel_body(draft, event.path)
        return
    node = draft.state(event.path)
    if node.dead and node.attempt == event.attempt:
        revive(draft, event)


def _on_refused(draft: Draft, event: Event) -> None:
    if draft.state(event.path).attempt == event.attempt:
        end_over_budget(draft, event.path, event.fields)


def _on_limit_warning(draft: Draft, event: Event) -> None:
    fields = event.fields
    draft.warnings.append(LimitWarning(event.path, fields["meter"], int(fields["used"]), int(fields["limit"])))


def _on_lost(draft: Draft, event: Event) -> None:
    node = draft.state(event.path)
    if node.attempt != event.attempt or node.status is not NodeStatus.DISPATCHED:
        return
    reason = event.fields["reason"]
    if reason in ("handed_over", "stranger"):
        node = draft.update(event.path, moves=node.moves + 1)
    else:
        node = draft.update(event.path, losses=node.losses + 1)
    if after_loss(draft.step(event.path), node, reason, draft.run.max_deliveries).again:
        draft.dispatch_again(event.path, 0)
        return
    give_up(draft, event)


def _on_aborted(draft: Draft, event: Event) -> None:
    if draft.state(event.path).attempt == event.attempt:
        _record_attempt(draft, event, status=NodeStatus.FAILED, error=event.data["error"])
        draft.end(RunStatus.ABORTED, event.data["error"])


def _on_cancelled(draft: Draft, event: Event) -> None:
    if event.fields.get("status") == RunStatus.ABORTED:
        reason = event.fields["reason"]
        draft.end(RunStatus.ABORTED, {"type": "PipelineAbortSignal", "message": reason, "data": {}})
        return
    message = f"Run {draft.run.run_id} was cancelled: {event.fields.get('reason', '')}"
    draft.end(
        RunStatus.CANCELLED, {"type": "RunCancelledError", "message": message, "data": {"run_id": draft.run.run_id}}
    )


def _ignore(draft: Draft, event: Event) -> None:
    """Events that change nothing: what followers are told."""


_RULES: dict[EventKind, Callable[[Draft, Event], None]] = {
    EventKind.CREATED: _on_created,
    EventKind.SUCCEEDED: _on_succeeded,
    EventKind.FAILED: _on_failed,
    EventKind.ABORTED: _on_aborted,
    EventKind.PAUSED: _on_paused,
    EventKind.ANSWERED: _on_answered,
    EventKind.REMINDED: _on_reminded,
    EventKind.BLOCKED: _on_blocked,
    EventKind.UNBLOCKED: _on_unblocked,
    EventKind.REVIVED: _on_revived,
    EventKind.REFUSED: _on_refused,
    EventKind.LIMIT_WARNING: _on_limit_warning,
    EventKind.LOST: _on_lost,
    EventKind.CANCELLED: _on_cancelled,
    EventKind.FINISHED: _ignore,
    EventKind.SUSPENDED: _ignore,
    EventKind.CHUNK: _ignore,
    EventKind.GAP: _ignore,
}


def _take_context(draft: Draft, event: Event) -> None:
    form = event.fields.get("context")
    if not form:
        return
    anew, node = form == "snapshot", draft.state(event.path)
    before, wrote = ((), ()) if anew else (draft.context(event.path), node.wrote)
    failed = f"#{event.attempt}" if event.kind is EventKind.FAILED else ""  # as commit.lua names them
    written = f"ctx:{event.path}{failed}"
    draft.update(event.path, wrote=(*wrote, written), anew=anew or node.anew)
    draft.update(draft.written_scope(event.path), context=(*before, written))


def _record_attempt(draft: Draft, event: Event, **changes: Any) -> NodeState:
    node = draft.state(event.path)
    usage = dict(node.usage)
    for meter, amount in parse_amounts(event.fields.get("usage", "")).items():
        usage[meter] = usage.get(meter, 0) + amount
    data = event.data
    latency_ms, verdict = int(data.get("latency_ms", 0)), data.get("verdict")
    return draft.update(event.path, usage=usage, latency_ms=latency_ms, verdict=verdict, **changes)


def _placed(draft: Draft, path: str, error: dict[str, Any]) -> dict[str, Any]:
    """An error that a step ends the run with, and its place where its own words lack it."""
    run_id = draft.run.run_id
    if run_id in error["message"]:
        return error
    suggestion = error.get("suggestion")
    words = error["message"] if suggestion is None else error["message"].removesuffix(f" {suggestion}")
    place = f"(run {run_id}, step '{draft.name(path)}' at {path})"
    told = place if suggestion is None else f"{place} {suggestion}"
    return {**error, "message": f"{words} {told}", "suggestion": told}
