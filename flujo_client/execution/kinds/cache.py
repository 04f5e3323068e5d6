"""Cached nodes: a control step looks the result up; on a miss one run makes it, and the others wait for it."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.graph import NodeResult, Producer, RunGraph
from flujo_client.execution.kinds.composite import Composite
from flujo_client.execution.paths import child_of, control_of, control_path
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import CacheSpec

__all__ = ["CacheKind"]

#: Where the output comes from, in `NodeState.chosen`.
_BODY, _HIT = 0, 1

#: Shortest and longest wait before a result that somebody else makes is looked up again.
_WAIT_MS, _LONGEST_WAIT_MS = 50, 1_000


class CacheKind(Composite):
    """See `NodeKind`."""

    isolates = True

    def enter(self, draft: Draft, path: str, node: CacheSpec) -> None:
        """Look it up."""
        if draft.needed(path).status is not NodeStatus.WAITING or draft.missing:
            return
        draft.update(path, status=NodeStatus.RUNNING, context=draft.context(path))
        draft.dispatch_control(
            path,
            "lookup",
            value=draft.input(path),
            arguments={"definition": node.definition, "lease_ms": node.lease_ms},
        )

    def control_succeeded(self, draft: Draft, path: str, node: CacheSpec, event: Event) -> None:
        """A hit is the output; on a miss the body runs, or whoever runs it already is waited for."""
        control, _ = control_of(event.path)
        if control == "lookup":
            self._looked_up(draft, path, event)
        elif control == "release":
            draft.fail(path, draft.state(path).failed[0])
        else:
            draft.complete(path)

    def _looked_up(self, draft: Draft, path: str, event: Event) -> None:
        verdict = event.data["verdict"]
        if "wait_ms" in verdict:
            doubled = _WAIT_MS * 2 ** min(event.attempt - 1, 10)
            draft.dispatch_again(event.path, max(1, min(verdict["wait_ms"], doubled, _LONGEST_WAIT_MS)))
            return
        draft.update(path, chosen=_HIT if verdict["hit"] else _BODY, key=verdict["key"])
        if verdict["hit"]:
            draft.complete(path)
        else:
            draft.update(path, opened=1)
            draft.enter(child_of(path, 0))

    def child_succeeded(self, draft: Draft, path: str, node: CacheSpec, index: int) -> None:
        """Cache what the body made."""
        body = child_of(path, index)
        state = draft.needed(path)
        after = draft.state(body).context or state.context
        draft.hoist_context(body)
        draft.dispatch_control(
            path,
            "store",
            value=draft.output(body),
            producer=draft.producer(body),
            branches={"before": state.context, "after": after},
            arguments={"key": state.key, "ttl_ms": node.ttl_ms},
        )

    def child_failed(self, draft: Draft, path: str, node: CacheSpec, index: int, cause: str) -> None:
        """Nothing is cached; whoever waits may make it."""
        state = draft.update(path, failed={index: cause})
        draft.dispatch_control(path, "release", value={}, arguments={"key": state.key})

    def output(self, graph: RunGraph, path: str, node: CacheSpec) -> Expression:
        """What was cached, or what the body made."""
        if graph.needed(path).chosen == _HIT:
            return f"out:{control_path(path, 'lookup')}"
        return graph.output(child_of(path, 0))

    def producer(self, graph: RunGraph, path: str, node: CacheSpec) -> Producer:
        """The body's last step: a hit has the type of what it once made."""
        return graph.producer(child_of(path, 0))

    def children(self, graph: RunGraph, path: str, node: CacheSpec) -> Iterator[tuple[int, str | None]]:
        """The body, if it ran."""
        return ((index, node.name) for index in range(graph.needed(path).opened))

    def result(self, graph: RunGraph, path: str, node: CacheSpec, parts: list[NodeResult]) -> NodeResult:
        """The body's result under its own name, and whether it was a hit."""
        state, result = graph.state(path), super().result(graph, path, node, parts)
        steps = [step for part in parts for step in part["step_history"]]
        told = (self.control_story(graph, path, control) for control in ("lookup", "store"))
        inner = steps[0].get("metadata_", {}) if len(steps) == 1 else {}
        return {
            **result,
            "feedback": next(filter(None, told), result["feedback"]),
            "attempts": steps[0]["attempts"] if len(steps) == 1 else result["attempts"],
            "step_history": steps,
            "metadata_": {**inner, "cache_hit": state.chosen == _HIT},
        }
