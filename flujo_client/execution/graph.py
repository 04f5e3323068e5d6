"""`RunGraph`: the nodes of a run as a tree that can be asked where values come from and who pays. Pure.

What differs between the kinds of nodes is in `kinds/`, one kind a file; everything else speaks of nodes through
`NodeKind`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from flujo_client.execution.decision import FRESH, NodeState
from flujo_client.execution.paths import child_of, control_of, node_of, parent_of
from flujo_client.protocol.messages import ANSWER, ASK, CONTROL_PREFIX, Event
from flujo_client.protocol.payloads import Expression
from flujo_client.protocol.spec import (
    HitlSpec,
    LeafSpec,
    NodeSpec,
    ParallelSpec,
    PipelineSpec,
    RetrySpec,
    SequenceSpec,
    StepSpec,
    SubPipelineSpec,
)

if TYPE_CHECKING:
    from flujo_client.execution.draft import Draft

__all__ = ["Kinds", "NodeKind", "NodeResult", "Producer", "RunGraph", "step_at"]

#: A `StepResult` as JSON, with `{"$payload": expression}` in the place of its output; or `{"$branches": [name, ...]}` where that is what
#: the parts of its history say, by name.
NodeResult = dict[str, Any]


class Producer(NamedTuple):
    """What made a value: its name, its described type, and the function that a worker knows it by, "" for none."""

    name: str
    type: str
    function: str


class NodeKind(Protocol):
    """How nodes of one kind behave in a run. Stateless: what a run remembers is in its `NodeState`."""

    #: Whether a child has an account and a context of its own, as branches do, which run at once.
    splits: bool
    #: Whether a child has a context of its own, which becomes its parent's when the child succeeds.
    isolates: bool
    #: The control step that writes the context of the children and not that around the node; "" for none.
    opens: str

    def enter(self, draft: Draft, path: str, node: Any) -> None:
        """Start the node, or go on starting it."""

    def child_succeeded(self, draft: Draft, path: str, node: Any, index: int) -> None:
        """A child is done: start what follows, or complete the node. Called again for the same child: changes nothing more."""

    def child_failed(self, draft: Draft, path: str, node: Any, index: int, cause: str) -> None:
        """A child failed for good, because of the step at `cause`."""

    def control_succeeded(self, draft: Draft, path: str, node: Any, event: Event) -> None:
        """A control step of the node is committed."""

    def child_input(self, graph: RunGraph, path: str, node: Any, index: int) -> Expression:
        """The payloads that make a child's input."""

    def output(self, graph: RunGraph, path: str, node: Any) -> Expression:
        """The payloads that make the output of a node that succeeded."""

    def producer(self, graph: RunGraph, path: str, node: Any) -> Producer:
        """What makes the node's output."""

    def children(self, graph: RunGraph, path: str, node: Any) -> Iterator[tuple[int, str | None]]:
        """Indices of the children that there are so far, or will be for certain, and what people call them, if not by their own name."""

    def result(self, graph: RunGraph, path: str, node: Any, parts: list[NodeResult]) -> NodeResult:
        """The node's `StepResult`, made of those of its children that ended."""


#: The kinds by a spec's `kind`.
Kinds = Mapping[str, NodeKind]


class RunGraph:
    """A run's nodes.

    Args:
        spec: Of the run.
        kinds: Of its nodes.
        state_of: What the run remembers of a node.
        stored: What workers committed of each step beside its output, by path; for results only.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        kinds: Kinds,
        state_of: Callable[[str], NodeState],
        stored: Mapping[str, dict[str, Any]] | None = None,
    ) -> None:
        self.spec = spec
        self.kinds = kinds
        self._state_of = state_of
        self._stored = stored or {}
        self._found: dict[str, NodeSpec] = {}

    def state(self, path: str) -> NodeState:
        """What the run remembers of a node."""
        return self._state_of(path)

    def needed(self, path: str) -> NodeState:
        """The state of a node that may lie off the way of what is being decided."""
        return self._state_of(path)

    def stored(self, path: str) -> dict[str, Any]:
        """What a worker committed of a step beside its output."""
        return self._stored.get(path, {})

    def node(self, path: str) -> NodeSpec:
        """The spec of a node."""
        if path not in self._found:
            self._found[path] = self.spec.node(path)
        return self._found[path]

    def kind(self, path: str) -> NodeKind:
        """The kind of a node."""
        return self.kinds[self.node(path).kind]

    def name(self, path: str) -> str:
        """What people call a node: a sequence has no name but its place."""
        node = self.node(path)
        return path if isinstance(node, SequenceSpec) else node.name

    def step(self, path: str) -> StepSpec:
        """The terms of a step, or of what it has fallen back on; or of a control step."""
        return step_at(self.spec, path, self.state(path))

    def output(self, path: str) -> Expression:
        """The payloads that make a finished node's output."""
        return self.kind(path).output(self, path, self.node(path))

    def input(self, path: str) -> Expression:
        """The payloads that make a node's input."""
        if path == "root":
            return "input"
        parent, index = parent_of(path)
        return self.kind(parent).child_input(self, parent, self.node(parent), index)

    def producer(self, path: str) -> Producer:
        """What makes a node's output."""
        return self.kind(path).producer(self, path, self.node(path))

    def producer_before(self, path: str) -> Producer:
        """What made a node's input; it is called "input" if it is the run's own."""
        while path != "root":
            parent, index = parent_of(path)
            if index > 0 and isinstance(self.node(parent), SequenceSpec):
                return self.producer(child_of(parent, index - 1))
            path = parent
        return Producer("input", "Any", "")

    def named_before(self, path: str, names: Sequence[str]) -> dict[str, str]:
        """The paths of nodes of these names that ended before a node, the nearest of each; in its sequence and those around it."""
        found: dict[str, str] = {}
        while names and path != "root":
            parent, index = parent_of(path)
            node = self.node(parent)
            if isinstance(node, SequenceSpec):
                for place in reversed(range(index)):
                    before = node.nodes[place]
                    if not isinstance(before, SequenceSpec) and before.name in names:
                        found.setdefault(before.name, child_of(parent, place))
            path = parent
        return found

    def _above(self, path: str) -> Iterator[tuple[str, NodeKind]]:
        """A node and those above it, innermost first, each with the kind of its parent."""
        at = node_of(path)
        while at != "root":
            parent = parent_of(at)[0]
            yield at, self.kind(parent)
            at = parent

    def accounts(self, path: str) -> tuple[str, ...]:
        """The accounts that pay for a node, innermost first, the run's own last."""
        return (*(at for at, parent in self._above(path) if parent.splits), "root")

    def chain(self, path: str) -> tuple[str, ...]:
        """The accounts as scripts read them: `id=` draws on nobody, `id~meter=amount,...` is a step's own limit."""
        words = []
        for account in self.accounts(path):
            node = None if account == "root" else self.node(parent_of(account)[0])
            words.append(f"{account}=" if isinstance(node, ParallelSpec) and node.split == "strict" else account)
        leaf = self.node(node_of(path))
        if isinstance(leaf, StepSpec) and leaf.usage_limits and path == node_of(path):
            words.insert(0, f"{path}~{','.join(f'{meter}={most}' for meter, most in leaf.usage_limits.items())}")
        return tuple(words)

    def scope(self, path: str) -> str:
        """The branch, the iteration, or the root, whose context a node reads and writes."""
        return next((at for at, parent in self._above(path) if parent.isolates), "root")

    def written_scope(self, path: str) -> str:
        """Where the context is kept that an attempt writes: at its scope, or at its composite, for the children to start with."""
        control, _ = control_of(path)
        if control and self.kind(path).opens == control:
            return node_of(path)
        return self.scope(path)

    def context_model(self, path: str) -> str:
        """The model of the context that the innermost sub-pipeline around a node has; "" if none names one."""
        for at, _ in self._above(path):
            above = self.node(parent_of(at)[0])
            if isinstance(above, SubPipelineSpec) and above.context_model is not None:
                return above.context_model
        return ""

    def context(self, path: str) -> tuple[str, ...]:
        """The context payloads of a node's scope; a scope in which nothing was written has those of the node above it."""
        scope = self.scope(path)
        while not self.state(scope).context and scope != "root":
            above = parent_of(scope)[0]
            if self.state(above).context:
                return self.state(above).context
            scope = self.scope(above)
        return self.state(scope).context

    def results(self, path: str) -> NodeResult:
        """The `StepResult` of a node, with those of its children."""
        node, kind = self.node(path), self.kind(path)
        parts = []
        for index, label in kind.children(self, path, node):
            child = child_of(path, index)
            state = self.needed(child)
            if state.status.ended or isinstance(self.node(child), SequenceSpec):
                part = self.results(child)
                parts.append(part if label is None else {**part, "name": label})
        return kind.result(self, path, node, parts)


def step_at(spec: PipelineSpec, path: str, state: NodeState = FRESH) -> StepSpec:
    """The terms of a leaf's attempt, or of a composite's control step: on the queue of the first leaf inside, and not tried
    again, since a condition that raised would raise again.

    Args:
        state: Of the node, which may have fallen back, or be applying an answer.
    """
    node, (control, _) = spec.node(path), control_of(path)
    if control:
        assert not isinstance(node, SequenceSpec)
        functions = " ".join((CONTROL_PREFIX + control, *node.roles(control).values()))
        return StepSpec(
            name=f"{node.name}:{control}", function=functions, queue=_first_leaf(node).queue, retry=RetrySpec(retries=0)
        )
    if state.answering or isinstance(node, HitlSpec):
        assert isinstance(node, HitlSpec | StepSpec)
        function = CONTROL_PREFIX + (ANSWER if state.answering else ASK)
        return StepSpec(name=node.name, function=function, queue=node.queue, retry=RetrySpec(retries=0))
    assert isinstance(node, StepSpec)
    for _ in range(state.fallback):
        assert node.fallback is not None
        node = node.fallback
    return node


def _first_leaf(node: NodeSpec) -> LeafSpec:
    while not isinstance(node, StepSpec | HitlSpec):
        node = node.parts()[0]
    return node
