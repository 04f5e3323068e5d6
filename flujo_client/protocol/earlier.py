"""Which nodes ended before a place of a run, as that place sees them by name: for `context.step_outputs`.

A place sees what its context has gone through: what came before it in its sequence and in those around it, the iterations
before its own, and what is in composites that have ended, the last of a name. Not what runs beside it, nor what has a
context of its own that went nowhere. Its control step sees, besides, what is in the composite itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.pipeline_context import STEP_OUTPUTS
from flujo_client.protocol.spec import (
    ConditionalSpec,
    HitlSpec,
    LoopSpec,
    MachineSpec,
    MapSpec,
    NodeSpec,
    ParallelSpec,
    PipelineSpec,
    RouterSpec,
    SequenceSpec,
    StepSpec,
    SubPipelineSpec,
)

__all__ = ["EarlierNodes", "EarlierOutput"]

#: States that are read at once of the many children of one node.
_AT_ONCE = 100

#: A node's state as it is stored; empty for one that is not.
_State = Mapping[str, Any]


class EarlierOutput(NamedTuple):
    """Where a node's output is, and the function by which a worker knows its type, "" for none."""

    expression: Expression
    function: str


class EarlierNodes:
    """The nodes of one run that have ended.

    Args:
        spec: Of the run.
        read: Gives the stored states of nodes by their paths, in order.
    """

    def __init__(self, spec: PipelineSpec, read: Callable[[Sequence[str]], Iterable[_State]]) -> None:
        self._spec = spec
        self._read = read
        self._states: dict[str, _State] = {}
        self._names: dict[int, set[str]] = {}
        self._found: dict[str, EarlierOutput] = {}

    def before(self, path: str, branch: str | None = None) -> dict[str, EarlierOutput]:
        """The outputs that a place sees, by the names of the nodes.

        Args:
            path: Of a node or a control step.
            branch: Of a parallel node's control step: as a branch sees them at its end. A sub-pipeline has one, its body.
        """
        self._found = {}
        at, control, _ = path.partition("!")
        if branch is not None:
            node = self._spec.node(at)
            at = _child(at, node.names.index(branch) if isinstance(node, ParallelSpec) else 0)
        if control and not isinstance(self._spec.node(at), StepSpec | HitlSpec):
            self._add(at, self._spec.node(at))
        while at != "root":
            above, _, index = at.rpartition(".")
            above = above or "root"
            node = self._spec.node(above)
            self._add_all(above, self._before(above, node, int(index)))
            if _closes(node):
                break
            at = above
        return self._found

    def _before(self, path: str, node: NodeSpec, index: int) -> Sequence[int]:
        """The children that ended before one of their siblings, in order."""
        match node:
            case SequenceSpec() | LoopSpec() | RouterSpec():
                return range(index)
            case MachineSpec():
                visited: list[int] = self._state(path).get("visited", [])
                return visited[: visited.index(index)] if index in visited else visited
        return ()

    def _children(self, path: str, node: NodeSpec) -> Sequence[int]:
        """The children of a composite whose contexts became its own, in order, as far as they succeeded."""
        state = self._state(path)
        match node:
            case LoopSpec():
                return range(state.get("opened", 0))
            case MapSpec() if node.merge != "no_merge":
                return range(state.get("opened", 0))
            case ParallelSpec() if node.merge != "no_merge":
                return range(len(node.names))
            case ConditionalSpec() if state.get("chosen") is not None:
                return (state["chosen"],)
            case MachineSpec():
                return tuple(state.get("visited", ()))
            case RouterSpec():
                return (0, 1)
            case SubPipelineSpec() if not node.inherit_context:
                return ()
        return (0,) if node.kind in ("cache", "pipeline") else ()

    def _add_children(self, path: str) -> None:
        node = self._spec.node(path)
        self._add_all(path, self._children(path, node))

    def _add_all(self, path: str, children: Sequence[int]) -> None:
        """Add children that have ended, the last first: the nearest of a name counts."""
        node = self._spec.node(path)
        for start in range(len(children), 0, -_AT_ONCE):
            some = [child for child in reversed(children[max(0, start - _AT_ONCE) : start]) if self._adds(node, child)]
            self._prefetch([_child(path, child) for child in some if not isinstance(node.child(child), StepSpec)])
            for child in some:
                if self._adds(node, child):
                    self._add(_child(path, child), node.child(child))

    def _adds(self, node: NodeSpec, child: int) -> bool:
        """Whether something in a child has a name that is not found yet: the iterations of a loop are many and alike."""
        part = node.child(child)
        if id(part) not in self._names:
            self._names[id(part)] = set(_names(part))
        return not self._names[id(part)] <= self._found.keys()

    def _add(self, path: str, node: NodeSpec) -> None:
        if isinstance(node, StepSpec | HitlSpec):
            self._found.setdefault(node.name, EarlierOutput(f"out:{path}", node.function))
            return
        state = self._state(path)
        succeeded = state.get("status") == "succeeded"
        if isinstance(node, SequenceSpec):
            if succeeded:
                self._add_all(path, range(len(node.nodes)))
            return
        if succeeded and state.get("output") is not None:
            self._found.setdefault(node.name, EarlierOutput(state["output"], state.get("made_by", "")))
        self._add_children(path)

    def _state(self, path: str) -> _State:
        if path not in self._states:
            self._prefetch([path])
        return self._states[path]

    def _prefetch(self, paths: Sequence[str]) -> None:
        unknown = [path for path in paths if path not in self._states]
        if unknown:
            self._states.update(zip(unknown, self._read(unknown), strict=True))


def _closes(node: NodeSpec) -> bool:
    """Whether what is in a node does not see what came before it."""
    if isinstance(node, ParallelSpec):
        return node.context_include_keys is not None and STEP_OUTPUTS not in node.context_include_keys
    return isinstance(node, SubPipelineSpec) and not node.inherit_context


def _child(path: str, index: int) -> str:
    return str(index) if path == "root" else f"{path}.{index}"


def _names(node: NodeSpec) -> Iterable[str]:
    """The names of a node and of all that is in it."""
    if not isinstance(node, SequenceSpec):
        yield node.name
    for part in node.parts():
        yield from _names(part)
