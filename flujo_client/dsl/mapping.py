"""`MapStep`: a body for each item of a list."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union

from pydantic import ConfigDict, Field, field_validator

from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.config import MergeStrategy
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.spec import MapSpec

__all__ = ["MapStep"]


@composite("map")
class MapStep(Composite):
    """A body for each item, some at a time. Its output is the list of what the bodies gave, in the order of the items.

    Each item works on a copy of the context; what the items did to their copies is merged in their order. Ten thousand
    items are never ten thousand messages: the next item begins when one ends.

    Attributes:
        pipeline_to_run: A step or a pipeline; its input is the item.
        iterable_input: The field of the context that has the items; None: the step's own input is iterated over.
        max_concurrency: Items at once.
        on_item_failure: `fail`: the step fails, names the items, and begins no others; those under way run to their end.
            `none`: None stands in the output for the item. `skip`: the output does without it.
        merge_strategy, merge_numbers: As `ParallelStep` has them.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    pipeline_to_run: Pipeline
    iterable_input: str | None = None
    max_concurrency: int = Field(16, ge=1)
    on_item_failure: Literal["fail", "none", "skip"] = "fail"
    merge_strategy: MergeStrategy = MergeStrategy.CONTEXT_UPDATE
    merge_numbers: Literal["sum", "max", "conflict"] = "sum"

    @field_validator("pipeline_to_run", mode="before")
    @classmethod
    def _body_is_a_pipeline(cls, body: Any) -> Pipeline:
        return as_pipeline(body)

    @property
    def input_type(self) -> Any:
        """Anything: the items may come from the context, or from any iterable."""
        return Any

    @property
    def wanted_type(self) -> Any:
        """What has items, unless these come from the context."""
        return Iterable[Any] if self.iterable_input is None else Any

    @property
    def output_type(self) -> Any:
        """A list of what the body returns."""
        item = self.pipeline_to_run.output_type
        return types.GenericAlias(list, Union[item, None] if self.on_item_failure == "none" else item)  # noqa: UP007  # of a value

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the body."""
        return {"body": self.pipeline_to_run}

    def entries(self) -> Mapping[str, Pipeline]:
        """See `Step.entries`: none, the body gets items."""
        return {}

    def to_node(self) -> MapSpec:
        """The step as a spec's node."""
        return MapSpec(
            name=self.name,
            body=self.pipeline_to_run.to_sequence(),
            iterable_input=self.iterable_input,
            max_concurrency=self.max_concurrency,
            on_item_failure=self.on_item_failure,
            merge=self.merge_strategy.value,
            merge_numbers=self.merge_numbers,
        )
