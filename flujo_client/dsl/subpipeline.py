"""`SubPipelineStep`: a pipeline as one step of another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, field_validator

from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.results import PipelineContext, PipelineResult
from flujo_client.protocol.spec import SubPipelineSpec

__all__ = ["SubPipelineStep"]


@composite("pipeline")
class SubPipelineStep(Composite):
    """A pipeline as one step, made by `Pipeline.as_step` and `Flujo.as_step`. Each step in it is a queued task of the same run.

    Attributes:
        pipeline: The body.
        inherit_context: Whether the body starts with the context around it and gives back what it changed; if not, it
            starts with `context_data` alone and what it does to its context ends with it.
        context_model: Of the body's context. A field that it needs and does not get is a `ContextInheritanceError`.
        context_data: For the fields that are not inherited; JSON values.
        gives_result: Whether the output is the body's `PipelineResult`; if not, it is the body's output.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    pipeline: Pipeline
    inherit_context: bool = True
    context_model: type[BaseModel] | None = None
    context_data: dict[str, Any] = Field(default_factory=dict)
    gives_result: bool = False

    @field_validator("pipeline", mode="before")
    @classmethod
    def _is_a_pipeline(cls, body: Any) -> Pipeline:
        return as_pipeline(body)

    @property
    def input_type(self) -> Any:
        """What the body takes."""
        return self.pipeline.input_type

    @property
    def output_type(self) -> Any:
        """What the body returns, or `PipelineResult`."""
        return PipelineResult if self.gives_result else self.pipeline.output_type

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the body."""
        return {"body": self.pipeline}

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`: the context's model."""
        model = self.context_model
        if model is None and not (self.inherit_context and not self.context_data):
            model = PipelineContext
        return {} if model is None else {"context_model": model}

    def to_node(self) -> SubPipelineSpec:
        """The step as a spec's node."""
        return SubPipelineSpec(
            name=self.name,
            body=self.pipeline.to_sequence(),
            inherit_context=self.inherit_context,
            context_model=self.reference("context_model"),
            context_data=pydantic_core.to_jsonable_python(self.context_data),
            gives_result=self.gives_result,
        )
