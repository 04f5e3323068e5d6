"""`ParallelStep`: branches at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from flujo_client.dsl.composite import Composite, as_pipelines
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
        merge_strategy: What becomes of the branches' contexts; or a function, (context, {branch: context}) -> the merged
            context, or None if it has changed the one that it got.
        merge_numbers: What `CONTEXT_UPDATE` does with a number that several branches changed: `sum` adds the changes up,
            `max` takes the larger one, `conflict` treats it as any other value.
        field_mapping: Fields that are merged, by branch; of branches that it does not name, all.
        context_include_keys: Fields that branches get; the others are as the context's model has them at first. None: all.
        on_branch_failure: What a failed branch means. A failed branch that is ignored stands in the output as its step
            result.
        reduce: Makes the step's output: takes the branches' `StepResult`s in declared order, or, if its parameter is
            annotated as a mapping, their outputs by name; and the merged context, if it takes two arguments. It may be
            async, and may return a `StepResult`. The list that it gets answers to branches' names with their outputs.
        max_concurrency: Branches at once; the others begin as these end. None: all.
        split: How the budget that is free is shared out: `even`; weights by branch, whole numbers; or `strict`, even shares
            beyond which a branch gets nothing, whatever its siblings leave.
        ignore_branch_names: Accepted for existing code: merges never take a branch's name for that of a field.

    Merge and reducer run on a worker, as one queued control step. With no branches the step fails when it runs.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    branches: dict[str, Pipeline]
    merge_strategy: MergeStrategy | Callable[..., Any] = MergeStrategy.CONTEXT_UPDATE
    merge_numbers: Literal["sum", "max", "conflict"] = "sum"
    field_mapping: dict[str, list[str]] | None = None
    context_include_keys: list[str] | None = None
    on_branch_failure: BranchFailureStrategy = BranchFailureStrategy.PROPAGATE
    reduce: Callable[..., Any] | None = None
    max_concurrency: int | None = Field(None, ge=1)
    split: Literal["even", "strict"] | dict[str, int] = "even"
    ignore_branch_names: bool = False

    @field_validator("branches", mode="before")
    @classmethod
    def _as_pipelines(cls, branches: Any) -> dict[str, Pipeline]:
        return as_pipelines(branches)

    @model_validator(mode="after")
    def _branches_fit(self) -> Self:
        odd = [name for name in self.branches if not name or name.startswith("$")]
        unknown = sorted(set(self.field_mapping or {}) - self.branches.keys())
        if odd:
            raise ValueError(f"Parallel step '{self.name}': a branch cannot be called {odd[0]!r}.")
        if unknown:
            raise ValueError(
                f"Parallel step '{self.name}': field_mapping names no branches of it: {', '.join(unknown)}."
            )
        if isinstance(self.split, dict) and (self.split.keys() != self.branches.keys() or min(self.split.values()) < 1):
            raise ValueError(f"Parallel step '{self.name}': split must give each branch a weight of 1 or more.")
        return self

    @property
    def output_type(self) -> Any:
        """`dict`, unless a reducer makes the output."""
        return dict[str, Any] if self.reduce is None else Any

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the branches."""
        return self.branches

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`."""
        functions = {
            "merge": None if isinstance(self.merge_strategy, MergeStrategy) else self.merge_strategy,
            "reduce": self.reduce,
        }
        return {role: function for role, function in functions.items() if function is not None}

    def to_node(self) -> ParallelSpec:
        """The step as a spec's node."""
        return ParallelSpec(
            name=self.name,
            names=tuple(self.branches),
            branches=tuple(branch.to_sequence() for branch in self.branches.values()),
            on_branch_failure=self.on_branch_failure.value,
            merge=self.merge_strategy.value if isinstance(self.merge_strategy, MergeStrategy) else "function",
            merge_function=self.reference("merge"),
            merge_numbers=self.merge_numbers,
            field_mapping={name: tuple(fields) for name, fields in (self.field_mapping or {}).items()},
            context_include_keys=None if self.context_include_keys is None else tuple(self.context_include_keys),
            reduce=self.reference("reduce"),
            max_concurrency=self.max_concurrency,
            split="weights" if isinstance(self.split, dict) else self.split,
            weights=tuple(self.split[name] for name in self.branches) if isinstance(self.split, dict) else (),
        )
