"""`LoopStep`: a body until a condition holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from flujo_client.dsl.compatibility import compatible
from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.findings import ValidationFinding, warn
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.spec import LoopSpec
from flujo_client.protocol.types import describe_type

__all__ = ["LoopStep"]


@composite("loop")
class LoopStep(Composite):
    """A body that runs again and again. Its output is that of the last iteration.

    Each iteration works on a context of its own, which becomes that of the loop when it succeeds. Condition and mappers
    run on a worker, as a queued control step after each iteration; they may be sync or async.

    Attributes:
        loop_body_pipeline: A step or a pipeline.
        exit_condition_callable: (last output, context) -> whether to stop.
        max_loops: Iterations at the most. A loop that reaches it has failed, with `reached max_loops`; what comes after it
            in its pipeline still runs, on its last output.
        initial_input_to_loop_body_mapper: (input, context) -> input of the first iteration.
        iteration_input_mapper: (output, context, iterations done) -> input of the next; default: the output.
        loop_output_mapper: (last output, context) -> output of the loop.
        same_input: Each iteration gets what the first one got; what it made before is in the context.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", populate_by_name=True)

    loop_body_pipeline: Pipeline
    exit_condition_callable: Callable[..., Any]
    max_loops: int = Field(5, ge=1, validation_alias=AliasChoices("max_loops", "max_retries"))
    initial_input_to_loop_body_mapper: Callable[..., Any] | None = None
    iteration_input_mapper: Callable[..., Any] | None = None
    loop_output_mapper: Callable[..., Any] | None = None
    same_input: bool = False

    @field_validator("loop_body_pipeline", mode="before")
    @classmethod
    def _body_is_a_pipeline(cls, body: Any) -> Pipeline:
        return as_pipeline(body)

    @property
    def input_type(self) -> Any:
        """What the body takes, unless a mapper stands before it."""
        return Any if self.initial_input_to_loop_body_mapper else self.loop_body_pipeline.input_type

    @property
    def output_type(self) -> Any:
        """What the body returns, unless a mapper stands behind it."""
        return Any if self.loop_output_mapper else self.loop_body_pipeline.output_type

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the body."""
        return {"body": self.loop_body_pipeline}

    def entries(self) -> Mapping[str, Pipeline]:
        """See `Step.entries`: the body, unless a mapper stands before it."""
        return {} if self.initial_input_to_loop_body_mapper else self.parts()

    def findings(self) -> Iterator[ValidationFinding]:
        """See `Step.findings`: a body that cannot take what it gave."""
        body = self.loop_body_pipeline
        if (
            self.iteration_input_mapper is None
            and not self.same_input
            and self.max_loops > 1
            and not compatible(body.output_type, body.input_type)
        ):
            text = f"Type mismatch: the body returns {describe_type(body.output_type)}, and expects {describe_type(body.input_type)} again"
            yield warn("loop_types", text, "Give the loop an iteration_input_mapper.")

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`."""
        functions = {
            "exit_condition": self.exit_condition_callable,
            "initial_mapper": self.initial_input_to_loop_body_mapper,
            "iteration_mapper": self.iteration_input_mapper,
            "output_mapper": self.loop_output_mapper,
        }
        return {role: function for role, function in functions.items() if function is not None}

    def to_node(self) -> LoopSpec:
        """The step as a spec's node."""
        return LoopSpec(
            name=self.name,
            body=self.loop_body_pipeline.to_sequence(),
            max_loops=self.max_loops,
            exit_condition=self.reference("exit_condition") or "",
            initial_mapper=self.reference("initial_mapper"),
            iteration_mapper=self.reference("iteration_mapper"),
            output_mapper=self.reference("output_mapper"),
            same_input=self.same_input,
        )
