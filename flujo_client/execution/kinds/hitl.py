"""Questions to humans: a worker renders the question; the leaf pauses, and its output is the answer."""

from __future__ import annotations

from typing import Any

from flujo_client.execution.draft import Draft
from flujo_client.execution.kinds.step import StepKind
from flujo_client.protocol.messages import ASK

__all__ = ["HitlKind"]


class HitlKind(StepKind):
    """See `NodeKind`."""

    def enter(self, draft: Draft, path: str, node: Any) -> None:
        """Have the question rendered."""
        if draft.needed(path).attempt or draft.missing:  # it may have been answered before it is reached
            return
        draft.dispatch(
            path,
            draft.step(path),
            draft.input(path),
            draft.producer_before(path),
            True,
            kind=node.kind,
            control=ASK,
            arguments={"message": node.message},
        )
