"""`ConditionalStep`: the branch that a condition names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from flujo_client.dsl.callables import result_of
from flujo_client.dsl.composite import Composite, as_pipeline, as_pipelines
from flujo_client.dsl.composites import composite
from flujo_client.dsl.findings import ValidationFinding, possible_keys, warn
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.spec import ConditionalSpec

__all__ = ["ConditionalStep"]


@composite("conditional")
class ConditionalStep(Composite):
    """One branch of several. Its output is that of the branch.

    The branch works on a context of its own, which becomes that of the pipeline around it when it succeeds. Condition
    and mappers run on a worker, as queued control steps; they may be sync or async.

    Attributes:
        condition_callable: (input, context) -> key of a branch. A key that no branch has takes the default; without one
            the step fails.
        branches: Steps or pipelines by key: strings, numbers, booleans, or members of an enum of these.
        default_branch_pipeline: For any other key.
        branch_input_mapper: (input, context) -> input of the branch.
        branch_output_mapper: (output, key, context) -> output of the step.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    condition_callable: Callable[..., Any]
    branches: dict[Any, Pipeline] = Field(min_length=1)
    default_branch_pipeline: Pipeline | None = None
    branch_input_mapper: Callable[..., Any] | None = None
    branch_output_mapper: Callable[..., Any] | None = None

    @field_validator("branches", mode="before")
    @classmethod
    def _as_pipelines(cls, branches: Any) -> dict[Any, Pipeline]:
        return as_pipelines(branches)

    @field_validator("default_branch_pipeline", mode="before")
    @classmethod
    def _default_is_a_pipeline(cls, part: Any) -> Pipeline | None:
        return None if part is None else as_pipeline(part)

    @property
    def input_type(self) -> Any:
        """What all branches take, if they agree and no mapper stands before them."""
        return Any if self.branch_input_mapper else super().input_type

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the branches."""
        default = {"default": self.default_branch_pipeline} if self.default_branch_pipeline is not None else {}
        return {**{str(_plain(key)): branch for key, branch in self.branches.items()}, **default}

    def entries(self) -> Mapping[str, Pipeline]:
        """See `Step.entries`: every branch, unless a mapper stands before them."""
        return {} if self.branch_input_mapper else self.parts()

    def findings(self) -> Iterator[ValidationFinding]:
        """See `Step.findings`: keys without a branch, and branches without a key."""
        possible = possible_keys(result_of(self.condition_callable))
        known = {_matched(_plain(key)): _plain(key) for key in self.branches}
        if possible is None:
            if self.default_branch_pipeline is None:
                missing = f"there is no default branch for keys other than {', '.join(map(repr, known.values()))}"
                yield warn(
                    "missing_default",
                    missing,
                    "Give it a default_branch_pipeline, or annotate what the condition returns.",
                )
            return
        wanted = {_matched(key): key for key in possible}
        if self.default_branch_pipeline is None and (lacking := [key for at, key in wanted.items() if at not in known]):
            text = f"the condition may return {', '.join(map(repr, lacking))}, for which there is neither a branch nor a default"
            yield warn("missing_default", text, "Add the branch, or a default_branch_pipeline.")
        for at, key in known.items():
            if at not in wanted:
                text = f"branch {key!r} is never reached: the condition returns {', '.join(map(repr, possible))}"
                yield warn("unreachable_branch", text, "Remove the branch, or correct its key.")
        if self.default_branch_pipeline is not None and wanted.keys() <= known.keys():
            yield warn(
                "unreachable_branch", "the default branch is never reached: every key has a branch", "Remove it."
            )

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`."""
        functions = {
            "condition": self.condition_callable,
            "input_mapper": self.branch_input_mapper,
            "output_mapper": self.branch_output_mapper,
        }
        return {role: function for role, function in functions.items() if function is not None}

    def to_node(self) -> ConditionalSpec:
        """The step as a spec's node."""
        default = [] if self.default_branch_pipeline is None else [self.default_branch_pipeline]
        return ConditionalSpec(
            name=self.name,
            keys=tuple(_plain(key) for key in self.branches),
            branches=tuple(branch.to_sequence() for branch in [*self.branches.values(), *default]),
            condition=self.reference("condition") or "",
            input_mapper=self.reference("input_mapper"),
            output_mapper=self.reference("output_mapper"),
        )


def _matched(key: Any) -> Any:
    """What a key is compared by: booleans match the words as well."""
    return str(key).lower() if isinstance(key, bool) or str(key).lower() in ("true", "false") else key


def _plain(key: Any) -> Any:
    return key.value if isinstance(key, Enum) else key
