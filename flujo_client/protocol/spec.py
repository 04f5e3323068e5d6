"""A pipeline as pure data: nodes, their terms, and a hash of the whole.

A spec is a tree. A node's *path* in a run is the list of child indices from the root, joined by dots: `1.0.2` is step
2 of branch 0 of node 1. Branches are sequences, so below a parallel node one index names the branch and the next the
node in it; below a loop the index is the iteration's. Paths name everything that a run stores, so that a join, an input
or a result is found by arithmetic and never listed. A *control step* runs a composite's own functions (a condition, a
mapper, the merge of contexts) on a worker; it carries the composite's path and a suffix: `1!merge`, `1!next.3`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Final, Literal

from pydantic import Field

from flujo_client.protocol.leaves import HitlSpec, Name, RetrySpec, SpecModel, StepSpec
from flujo_client.protocol.nodes import (
    BackgroundSpec,
    CacheSpec,
    CompositeSpec,
    ConditionalSpec,
    LeafSpec,
    LoopSpec,
    MachineSpec,
    MapSpec,
    NodeSpec,
    ParallelSpec,
    RouterSpec,
    SequenceSpec,
    SubPipelineSpec,
    TransitionSpec,
)

__all__ = [
    "LATEST",
    "SPEC_VERSION",
    "BackgroundSpec",
    "CacheSpec",
    "CompositeSpec",
    "ConditionalSpec",
    "HitlSpec",
    "LeafSpec",
    "LoopSpec",
    "MachineSpec",
    "MapSpec",
    "NodeSpec",
    "ParallelSpec",
    "PipelineSpec",
    "RetrySpec",
    "RouterSpec",
    "SequenceSpec",
    "StepSpec",
    "SubPipelineSpec",
    "TransitionSpec",
]

#: Rises when a spec can say something that the release before could not read.
SPEC_VERSION: Final = 1


#: The version of a pipeline that names none, and of the newest where one is asked for.
LATEST: Final = "latest"


class PipelineSpec(SpecModel):
    """A named pipeline. Two specs with equal content have equal hashes, wherever they were made."""

    version: Literal[1] = SPEC_VERSION
    name: Name
    pipeline_version: str = Field(LATEST, pattern=r"^[A-Za-z0-9.+!_-]{1,60}$", description="as its author counts")
    root: SequenceSpec
    input_schema: dict[str, object] = Field(default_factory=dict, description="JSON schema of the first step's input")

    @cached_property
    def content_hash(self) -> str:
        """The first 32 hex digits of the SHA-256 of the spec's canonical JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    def node(self, path: str) -> NodeSpec:
        """The node at a path; of a control step's path, the composite that it belongs to.

        Raises:
            KeyError: The pipeline has no such path.
        """
        node: NodeSpec = self.root
        if path == "root":
            return node
        for index in path.partition("!")[0].split("."):
            try:
                node = node.child(int(index))
            except IndexError as error:
                raise KeyError(path) from error
        return node

    def steps(self) -> list[StepSpec]:
        """Every step of a function, once, in declared order."""
        return self.root.steps()

    @cached_property
    def quantiles(self) -> dict[str, float]:
        """The steps whose estimates are learned, by name."""
        links = (link for step in self.steps() for link in step.chain())
        return {link.name: link.estimate_quantile for link in links if link.estimate_quantile is not None}
