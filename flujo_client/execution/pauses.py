"""Pauses in a decision: a leaf that asked something waits, and goes on with the first answer. Pure.

The answer is applied on a worker, as another attempt of the same leaf, since it may change the context; what that attempt
commits is the leaf's output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flujo_client.execution.decision import NodeState, NodeStatus, PauseState
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import Producer
from flujo_client.execution.kinds.machine import MachineKind
from flujo_client.execution.paths import parent_of
from flujo_client.protocol.messages import ANSWER, Event, StepOutputRef
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.replies import Alarm
from flujo_client.protocol.spec import HitlSpec, MachineSpec, PipelineSpec, StepSpec

__all__ = ["ask_human", "leaves_state", "receive_answer"]


def ask_human(draft: Draft, event: Event) -> None:
    """A leaf has paused. An answer that came before the pause is consumed at once."""
    message, asked_ms = event.data["verdict"]["message"], int(event.id.partition("-")[0])
    node = draft.update(event.path, pause=PauseState(message=message, asked_ms=asked_ms))
    if node.answer is not None:
        _go_on(draft, event.path)
        return
    draft.update(event.path, status=NodeStatus.PAUSED)
    leaf = draft.node(event.path)
    if isinstance(leaf, HitlSpec):
        draft.alarms += [Alarm(event.path, what, asked_ms + after_ms) for what, after_ms in leaf.alarms()]


def receive_answer(draft: Draft, event: Event) -> None:
    """Somebody has answered, or the time is up; only one of them. A leaf that has not paused yet, or waits as a dead letter, remembers it."""
    node = draft.update(event.path, answer=event.fields["how"])
    if node.status is not NodeStatus.PAUSED or node.dead:
        return
    leaf = draft.node(event.path)
    if isinstance(leaf, HitlSpec):
        draft.alarms += [Alarm(event.path, what, None) for what, _ in leaf.alarms()]
    _go_on(draft, event.path)


def _go_on(draft: Draft, path: str) -> None:
    leaf, node = draft.node(path), draft.state(path)
    assert isinstance(leaf, HitlSpec | StepSpec)
    assert node.pause is not None
    arguments: dict[str, Any] = {"message": node.pause.message, "sink_to": leaf.sink_to}
    answer: Expression = f"ans:{path}"
    if node.answer == "expired":
        assert isinstance(leaf, HitlSpec)
        if leaf.on_expiry == "fail":
            _expire(draft, path, leaf)
            return
        arguments["default"] = {"answer": leaf.default}
        answer = draft.input(path)
    draft.update(path, answering=True)
    producer = Producer("the answer", leaf.output_type, leaf.function)
    got = {"input": StepOutputRef(expression=draft.input(path), function=draft.producer_before(path).function)}
    terms: dict[str, Any] = {"kind": "hitl", "control": ANSWER, "arguments": arguments, "outputs": got}
    draft.dispatch(path, draft.step(path), answer, producer, True, **terms)


def alarms_of(spec: PipelineSpec, nodes: Mapping[str, NodeState]) -> Iterator[tuple[str, str, int]]:
    """What is to ring for the questions of a run that wait: path, what, and when, ms."""
    for path, node in nodes.items():
        if node.status is not NodeStatus.PAUSED or node.pause is None:
            continue
        leaf = spec.node(path)
        for what, after_ms in leaf.alarms() if isinstance(leaf, HitlSpec) else ():
            number = int(what.partition(":")[2] or 0)
            if what == "expired" or number > node.reminders:
                yield path, what, node.pause.asked_ms + after_ms


def leaves_state(draft: Draft, path: str) -> bool:
    """Whether a leaf that was answered ends the state of a state machine that it stands in, not inside anything else."""
    if not draft.state(path).answering or "." not in path:
        return False
    state, _ = parent_of(path)
    machine, index = parent_of(state)
    kind, node = draft.kind(machine), draft.node(machine)
    return (
        isinstance(kind, MachineKind)
        and isinstance(node, MachineSpec)
        and kind.leaf_answered(draft, machine, node, index, path)
    )


def _expire(draft: Draft, path: str, leaf: HitlSpec) -> None:
    message = f"Nobody answered '{leaf.name}' within {(leaf.expires_ms or 0) / 1000:g} s"
    error = {"type": "ResumeError", "message": message, "data": {"run_id": draft.run.run_id, "path": path}}
    draft.update(path, status=NodeStatus.FAILED, error=error)
    draft.fail(path, path)
