"""The factories of `Step` and `Pipeline`: each makes one of the steps that hold pipelines, found in the table of `composites.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from flujo_client.dsl.composites import COMPOSITES
from flujo_client.dsl.config import MergeStrategy, StepConfig, override_config
from flujo_client.dsl.gather import Gather

if TYPE_CHECKING:
    from flujo_client.dsl.pipeline import Pipeline
    from flujo_client.dsl.step import Step

__all__ = ["Factories", "Nesting", "of_options"]


class Factories:
    """What `Step` can make besides a step of a function."""

    if TYPE_CHECKING:

        @classmethod
        def from_callable(cls, function: Callable[..., Any], name: str | None = None, **terms: Any) -> Self: ...

    @classmethod
    def review(cls, agent: Any, **options: Any) -> Step[Any, Any]:
        """A step named `review`; see `Step` and `StepConfig` for the options."""
        made: Step[Any, Any] = of_options(cls, "review", agent, options)
        return made

    @classmethod
    def solution(cls, agent: Any, **options: Any) -> Step[Any, Any]:
        """A step named `solution`; see `Step` and `StepConfig` for the options."""
        made: Step[Any, Any] = of_options(cls, "solution", agent, options)
        return made

    @classmethod
    def validate_step(cls, agent: Any, *, strict: bool = True, **options: Any) -> Step[Any, Any]:
        """A step named `validate`, which calls no model as far as estimates go.

        Args:
            strict: An output that a validator refuses is dropped.
        """
        marks = {"is_validation_step": True, "strict_validation": strict}
        made: Step[Any, Any] = of_options(
            cls, "validate", agent, {**options, "meta": {**marks, **options.get("meta", {})}}
        )
        return made

    @staticmethod
    def parallel(name: str, branches: Mapping[str, Step[Any, Any] | Pipeline], **options: Any) -> Step[Any, Any]:
        """Run branches at once, each on the same input; see `ParallelStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["parallel"](name=name, branches=branches, **options)
        return made

    @staticmethod
    def cached(step: Step[Any, Any] | Pipeline, cache_backend: Any = None, **options: Any) -> Step[Any, Any]:
        """Keep a step's results; see `CacheStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["cached"](step, cache_backend, **options)
        return made

    @staticmethod
    def dynamic_parallel_branch(
        name: str, router_agent: Any, branches: Mapping[str, Step[Any, Any] | Pipeline], **options: Any
    ) -> Step[Any, Any]:
        """Run the branches that a router names; see `DynamicParallelRouterStep` for the options.

        Their contexts are merged, other than those of the class itself by default.
        """
        merging = {"merge_strategy": MergeStrategy.CONTEXT_UPDATE, **options}
        made: Step[Any, Any] = COMPOSITES["router"](name=name, router_agent=router_agent, branches=branches, **merging)
        return made

    @classmethod
    def gather(cls, name: str, *, wait_for: Sequence[str]) -> Self:
        """Pick keys of a dict, such as the outputs of some branches. A key that is missing fails the step."""
        return cls.from_callable(Gather(tuple(wait_for)).run, name=name)

    @staticmethod
    def loop_until(
        name: str,
        loop_body_pipeline: Step[Any, Any] | Pipeline,
        exit_condition_callable: Callable[[Any, Any], Any],
        max_loops: int = 5,
        **options: Any,
    ) -> Step[Any, Any]:
        """Repeat a body until a condition holds; see `LoopStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["loop"](
            name=name,
            loop_body_pipeline=loop_body_pipeline,
            exit_condition_callable=exit_condition_callable,
            max_loops=max_loops,
            **options,
        )
        return made

    @staticmethod
    def map_over(
        name: str, pipeline_to_run: Step[Any, Any] | Pipeline, *, iterable_input: str | None = None, **options: Any
    ) -> Step[Any, Any]:
        """Run a body for each item of a list; see `MapStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["map"](
            name=name, pipeline_to_run=pipeline_to_run, iterable_input=iterable_input, **options
        )
        return made

    @staticmethod
    def granular(name: str, agent: Any, input_: Any = None, *, max_turns: int = 20, **options: Any) -> Pipeline:
        """Let an agent work turn by turn, each a committed step; see `granular.granular` for the options."""
        made: Pipeline = COMPOSITES["granular"](name, agent, input_, max_turns=max_turns, **options)
        return made

    @staticmethod
    def branch_on(
        name: str,
        condition_callable: Callable[[Any, Any], Any],
        branches: Mapping[Any, Step[Any, Any] | Pipeline],
        default_branch_pipeline: Step[Any, Any] | Pipeline | None = None,
        **options: Any,
    ) -> Step[Any, Any]:
        """Run the branch that a condition names; see `ConditionalStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["conditional"](
            name=name,
            condition_callable=condition_callable,
            branches=branches,
            default_branch_pipeline=default_branch_pipeline,
            **options,
        )
        return made

    @staticmethod
    def human_in_the_loop(
        name: str, message_for_user: str | None = None, input_schema: Any = None, **options: Any
    ) -> Step[Any, Any]:
        """Ask a human; see `HumanInTheLoopStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["hitl"](
            name=name, message_for_user=message_for_user, input_schema=input_schema, **options
        )
        return made

    @staticmethod
    def refine_until(
        name: str,
        generator_pipeline: Step[Any, Any] | Pipeline,
        critic_pipeline: Step[Any, Any] | Pipeline,
        max_refinements: int = 5,
        **options: Any,
    ) -> Pipeline:
        """Generate and criticise until the critic is content; see `refine.refine_until` for the options."""
        made: Pipeline = COMPOSITES["refine"](
            name=name,
            generator_pipeline=generator_pipeline,
            critic_pipeline=critic_pipeline,
            max_refinements=max_refinements,
            **options,
        )
        return made


class Nesting:
    """What a pipeline can make of itself."""

    def as_step(self, name: str, *, inherit_context: bool = True, **options: Any) -> Step[Any, Any]:
        """The pipeline as one step of another, with the output of its last step; see `SubPipelineStep` for the options."""
        made: Step[Any, Any] = COMPOSITES["pipeline"](
            name=name, pipeline=self, inherit_context=inherit_context, **options
        )
        return made


def of_options(cls: Any, name: str, agent: Any, options: Mapping[str, Any]) -> Any:
    """A step of a class, of options that are fields of it, or terms of its config."""
    terms = {key: value for key, value in options.items() if key in StepConfig.model_fields}
    fields = {key: value for key, value in options.items() if key not in terms and value is not None}
    config = override_config(name, fields.pop("config", None), terms)
    return cls(name=name, agent=agent, config=config, **fields)
