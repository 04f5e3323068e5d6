"""Pauses in a decision: a leaf that asked something waits, and goes on with the first answer. Pure.

The answer is applied on a worker, as another attempt of the same leaf, since it may change the context; what that attempt
commits is the leaf's output.
"""

from __future__ import annotations

from flujo_client.execution.decision import NodeStatus, PauseState
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import Producer
from flujo_client.protocol.messages import ANSWER, Event
from flujo_client.protocol.spec import HitlSpec, StepSpec

__all__ = ["ask_human", "receive_answer"]


def ask_human(draft: Draft, event: Event) -> None:
    """A leaf has paused. An answer that came before the pause is consumed at once."""
    message, asked_ms = event.data["verdict"]["message"], int(event.id.partition("-")[0])
    node = draft.update(event.path, pause=PauseState(message=message, asked_ms=asked_ms))
    if node.answer is None:
        draft.update(event.path, status=NodeStatus.PAUSED)
    else:
        _apply_answer(draft, event.path)


def receive_answer(draft: Draft, event: Event) -> None:
    """Somebody has answered; resume.lua lets only one of them. A leaf that has not paused yet remembers it."""
    node = draft.update(event.path, answer=event.fields["how"])
    if node.status is NodeStatus.PAUSED:
        _apply_answer(draft, event.path)


def _apply_answer(draft: Draft, path: str) -> None:
    leaf = draft.node(path)
    assert isinstance(leaf, HitlSpec | StepSpec)
    node = draft.update(path, answering=True)
    assert node.pause is not None
    draft.dispatch(
        path,
        draft.step(path),
        f"ans:{path}",
        Producer("the answer", leaf.output_type, leaf.function),
        True,
        kind="hitl",
        control=ANSWER,
        arguments={"message": node.pause.message, "sink_to": leaf.sink_to},
    )
