"""`refine_until`: a generator and a critic in a loop, until the critic is content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from flujo_client.dsl.composite import as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.loop import LoopStep
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.protocol.errors import NonRetryableError

__all__ = ["RefinementCheck", "refine_until"]


class RefinementCheck(BaseModel):
    """What a critic says of an artifact."""

    is_complete: bool
    feedback: str | None = None


@dataclass(frozen=True)
class _Mapper:
    """Makes the generator's next input. An object of a class at the top of a module, so that workers find it by name, and
    equal to that of a refinement of the same name in another pipeline."""

    key: str
    feedback_mapper: Callable[[Any, RefinementCheck], Any] | None

    def __call__(self, check: RefinementCheck, context: Any, iterations: int) -> Any:
        """The feedback mapper's word on the loop's own input and the critic's check; default: the feedback."""
        if self.feedback_mapper is None:
            return check.feedback
        return self.feedback_mapper(_kept(context, f"{self.key}_input"), check)


@dataclass(frozen=True)
class _Artifact:
    """Ends the refinement with the artifact that the generator made last."""

    key: str

    async def run(self, check: Any, context: Any) -> Any:
        """The artifact, as JSON values on a fleet."""
        return _kept(context, f"{self.key}_artifact")


async def keep(value: Any) -> Any:
    """Passes a value on; the step around it sinks it into the context."""
    return value


def is_complete(check: RefinementCheck, context: Any) -> bool:
    """The loop's exit condition: the critic is content.

    Raises:
        NonRetryableError: The critic returned something else.
    """
    if not isinstance(check, RefinementCheck):
        raise NonRetryableError(f"A critic returns a RefinementCheck, not a {type(check).__name__}.")
    return check.is_complete


@composite("refine")
def refine_until(
    name: str,
    generator_pipeline: Step[Any, Any] | Pipeline,
    critic_pipeline: Step[Any, Any] | Pipeline,
    max_refinements: int = 5,
    feedback_mapper: Callable[[Any, RefinementCheck], Any] | None = None,
) -> Pipeline:
    """Generate, criticise, and generate again with the feedback, until the critic is content.

    The run's context keeps the input as `<name>_input` and the last artifact as `<name>_artifact`, so its model must take
    fields that it does not declare, as `PipelineContext` does.

    Args:
        generator_pipeline: Makes an artifact of the input, and later of what the feedback mapper makes.
        critic_pipeline: Gets the artifact, returns a `RefinementCheck`.
        max_refinements: Rounds at the most; after the last one its artifact is taken as it is.
        feedback_mapper: (input, check) -> the generator's next input; default: the check's feedback alone.

    Returns:
        A pipeline whose output is the last artifact.
    """
    key = name.replace("-", "_")
    body = as_pipeline(generator_pipeline) >> Step.from_callable(
        keep, name=f"{name}:capture_artifact", sink_to=f"{key}_artifact"
    )
    loop = LoopStep(
        name=name,
        loop_body_pipeline=body >> critic_pipeline,
        exit_condition_callable=is_complete,
        max_loops=max_refinements,
        iteration_input_mapper=_Mapper(key, feedback_mapper),
    )
    first: Step[Any, Any] = Step.from_callable(keep, name=f"{name}:capture_input", sink_to=f"{key}_input")
    last: Step[Any, Any] = Step(name=f"{name}_output_mapper", agent=_Artifact(key))
    return first >> loop >> last


def _kept(context: Any, key: str) -> Any:
    return context.get(key) if isinstance(context, dict) else getattr(context, key)
