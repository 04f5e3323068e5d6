"""The nodes of a spec that hold others: sequences, and each kind of composite."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from flujo_client.protocol.leaves import HitlSpec, NamedNode, NodeModel, SpecModel, StepSpec

__all__ = [
    "BackgroundSpec",
    "CacheSpec",
    "CompositeSpec",
    "ConditionalSpec",
    "LeafSpec",
    "LoopSpec",
    "MachineSpec",
    "MapSpec",
    "NodeSpec",
    "ParallelSpec",
    "RouterSpec",
    "SequenceSpec",
    "SubPipelineSpec",
    "TransitionSpec",
]


class SequenceSpec(NodeModel):
    """Nodes one after the other; each gets the output of the one before."""

    kind: Literal["sequence"] = "sequence"
    nodes: tuple[NodeSpec, ...]

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: the node at a place."""
        return self.nodes[index]

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`: its nodes."""
        return self.nodes


class _Composite(NamedNode, ABC):
    """A node that holds others, and functions of its own that workers run as control steps."""

    @abstractmethod
    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`."""

    @abstractmethod
    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""


class _OneBody(_Composite):
    """A composite with one body, however often it runs."""

    body: SequenceSpec

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: the body, for every index that is opened."""
        return self.body

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""
        return (self.body,)


class ParallelSpec(_Composite):
    """Branches at once, each with the same input and a share of the budget; the output is {branch: output}."""

    kind: Literal["parallel"] = "parallel"
    names: tuple[str, ...] = Field(description="of the branches, in declared order; with none of them it fails")
    branches: tuple[SequenceSpec, ...]
    on_branch_failure: Literal["propagate", "ignore"] = "propagate"
    merge: Literal["no_merge", "overwrite", "context_update", "error_on_conflict", "keep_first", "function"] = (
        "context_update"
    )
    merge_function: str | None = Field(None, description="(context, {branch: context}) -> merged context, or None")
    merge_numbers: Literal["sum", "max", "conflict"] = "sum"
    field_mapping: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="fields to merge, by branch")
    context_include_keys: tuple[str, ...] | None = Field(None, description="fields that branches get; None for all")
    reduce: str | None = Field(
        None, description="(results or outputs of the branches[, context]) -> output of the node"
    )
    max_concurrency: int | None = Field(None, ge=1, description="branches at once; None for all")
    split: Literal["even", "weights", "strict"] = Field("even", description="strict: a share is all that a branch gets")
    weights: tuple[int, ...] = Field((), description="of the branches, in declared order")

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: a branch."""
        return self.branches[index]

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""
        return self.branches

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`."""
        return _given(merge=self.merge_function, reduce=self.reduce) if control == "merge" else {}


class LoopSpec(_OneBody):
    """A body, again and again until a condition holds; each iteration gets the output of the one before."""

    kind: Literal["loop"] = "loop"
    max_loops: int = Field(ge=1)
    exit_condition: str = Field(description="(last output, context) -> whether to stop")
    initial_mapper: str | None = Field(None, description="(input, context) -> input of the first iteration")
    iteration_mapper: str | None = Field(None, description="(output, context, iterations done) -> input of the next")
    output_mapper: str | None = Field(None, description="(last output, context) -> output of the loop")
    same_input: bool = Field(False, description="whether each iteration gets what the first one got")

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`."""
        if control == "enter":
            return _given(initial_mapper=self.initial_mapper)
        return _given(
            exit_condition=self.exit_condition,
            iteration_mapper=self.iteration_mapper,
            output_mapper=self.output_mapper,
        )


class ConditionalSpec(_Composite):
    """The one branch that a condition names."""

    kind: Literal["conditional"] = "conditional"
    keys: tuple[str | int | float | bool, ...] = Field(description="what the condition returns, by branch")
    branches: tuple[SequenceSpec, ...] = Field(description="one a key, and the default branch last, if there is one")
    condition: str = Field(description="(input, context) -> key")
    input_mapper: str | None = Field(None, description="(input, context) -> input of the branch")
    output_mapper: str | None = Field(None, description="(output, key, context) -> output of the node")

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: a branch."""
        return self.branches[index]

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""
        return self.branches

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`."""
        if control == "choose":
            return _given(condition=self.condition, input_mapper=self.input_mapper)
        return _given(output_mapper=self.output_mapper)


class TransitionSpec(SpecModel):
    """Where a state machine goes from a state."""

    source: str = Field(description="name of a state, or * for any")
    on: Literal["success", "failure", "pause"] = "success"
    target: str
    when: str | None = Field(None, description="(output, context) -> whether it applies")


class MachineSpec(_Composite):
    """States that follow one another as transitions say. Hop h in state s has the index h · number of states + s."""

    kind: Literal["machine"] = "machine"
    names: tuple[str, ...] = Field(min_length=1, description="of the states, in declared order")
    states: tuple[SequenceSpec, ...]
    start: str
    ends: tuple[str, ...] = Field(description="names of states; of one that has nothing to run, not among `names`")
    transitions: tuple[TransitionSpec, ...] = ()
    most_hops: int = Field(ge=1, description="states that may be entered; one more fails the node")

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: the state that a hop entered."""
        return self.states[index % len(self.states)]

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""
        return self.states

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`: the conditions of the transitions, by their place."""
        return _given(**{f"when{place}": transition.when for place, transition in enumerate(self.transitions)})


class MapSpec(_OneBody):
    """A body for each item of a list, some at a time; the output is the list of what they gave."""

    kind: Literal["map"] = "map"
    iterable_input: str | None = Field(None, description="field of the context that has the items; None: the input")
    max_concurrency: int = Field(ge=1, description="items at once")
    on_item_failure: Literal["fail", "none", "skip"] = "fail"
    merge: Literal["no_merge", "overwrite", "context_update", "error_on_conflict", "keep_first"] = "context_update"
    merge_numbers: Literal["sum", "max", "conflict"] = "sum"


class RouterSpec(_Composite):
    """Branches that a router step names."""

    kind: Literal["router"] = "router"
    router: SequenceSpec
    parallel: ParallelSpec

    def child(self, index: int) -> NodeSpec:
        """See `NodeModel.child`: the router, then the branches."""
        return self.parts()[index]

    def parts(self) -> tuple[NodeSpec, ...]:
        """See `NodeModel.parts`."""
        return (self.router, self.parallel)


class BackgroundSpec(_OneBody):
    """A body that runs beside what follows; the output is the input."""

    kind: Literal["background"] = "background"


class CacheSpec(_OneBody):
    """A body whose successful results are kept."""

    kind: Literal["cache"] = "cache"
    read: str | None = Field(None, description="(key) -> entry or None, of the user's own cache; None: Redis")
    write: str | None = Field(None, description="(key, entry, seconds)")
    ttl_ms: int = Field(gt=0)
    lease_ms: int = Field(gt=0, description="how long one run may make what others wait for")

    @cached_property
    def definition(self) -> str:
        """What the body is, as a hash."""
        return hashlib.sha256(self.body.model_dump_json().encode()).hexdigest()[:32]

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`."""
        if control == "lookup":
            return _given(read=self.read)
        return _given(write=self.write) if control == "store" else {}


class SubPipelineSpec(_OneBody):
    """A pipeline as one node, on the context around it or on one of its own."""

    kind: Literal["pipeline"] = "pipeline"
    inherit_context: bool = Field(
        True, description="whether the body starts with the context around it, and changes it"
    )
    context_model: str | None = Field(None, description="of the contexts of the steps in it that declare none")
    context_data: dict[str, object] = Field(default_factory=dict, description="for the fields that are not inherited")
    gives_result: bool = Field(False, description="whether the output is the body's PipelineResult, not its output")

    @property
    def opens_context(self) -> bool:
        """Whether the body's context is made by a control step, and not just inherited."""
        return self.context_model is not None

    def own_roles(self, control: str) -> dict[str, str]:
        """See `NamedNode.own_roles`: the model of the context, which is called with its fields."""
        return _given(context_model=self.context_model)


def _given(**references: str | None) -> dict[str, str]:
    return {role: reference for role, reference in references.items() if reference is not None}


CompositeSpec = (
    ParallelSpec
    | LoopSpec
    | ConditionalSpec
    | MachineSpec
    | MapSpec
    | RouterSpec
    | BackgroundSpec
    | CacheSpec
    | SubPipelineSpec
)
LeafSpec = StepSpec | HitlSpec
NodeSpec = Annotated[LeafSpec | SequenceSpec | CompositeSpec, Field(discriminator="kind")]
