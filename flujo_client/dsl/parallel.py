"""`ParallelStep`: branches at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.config import BranchFailureStrategy, MergeStrategy
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.spec import ParallelSpec

__all__ = ["ParallelStep"]


@composite("parallel")
class ParallelStep(Composite):
    """Branches at once. Its output is `{branch: output}` in declared order.

    Each branch gets the same input, a copy of the context, and an equal share of the budget that is free; what a branch
    leaves goes back at its end, and a branch that needs more draws on what came back.

    Attributes:
        branches: Steps or pipelines by name.
        merge_strategy: What becomes of the branches' contexts.
        on_branch_failure: What a failed branch means. A failed branch that is ignored stands in the output as its step
            result.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    branches: dict[str, Pipeline] = Field(min_length=1)
    merge_strategy: MergeStrategy = MergeStrategy.CONTEXT_UPDATE
    on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE

    @field_validator("branches", mode="before")
    @classmethod
    def _as_pipelines(cls, branches: Mapping[str, Any]) -> dict[str, Pipeline]:
        return {name: as_pipeline(part) for name, part in branches.items()}

    @property
    def output_type(self) -> Any:
        """`dict`."""
        return dict[str, Any]

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the branches."""
        return self.branches

    def to_node(self) -> ParallelSpec:
        """The step as a spec's node."""
        return ParallelSpec(
            name=self.name,
            names=tuple(self.branches),
            branches=tuple(branch.to_sequence() for branch in self.branches.values()),
            on_branch_failure=self.on_branch_failure.value,
            merge=self.merge_strategy.value,
        )
