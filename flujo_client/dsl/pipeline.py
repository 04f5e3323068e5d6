"""`Step` and `Pipeline`: functions composed with `>>`. One module, as each is made of the other.

Steps that hold pipelines (`parallel.py`, `loop.py`, `conditional.py`) build on these two. `factories.py` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from flujo_client.dsl.callables import ControlFunction, Signature, inspect_callable, reference_of
from flujo_client.dsl.compatibility import compatible
from flujo_client.dsl.config import StepConfig
from flujo_client.dsl.factories import Factories, Nesting
from flujo_client.protocol.errors import (
    ConfigurationError,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    PipelineValidationError,
    StepInvocationError,
)
from flujo_client.protocol.quota import COST, TOKENS, to_nano_usd
from flujo_client.protocol.spec import NodeSpec, PipelineSpec, RetrySpec, SequenceSpec, StepSpec
from flujo_client.protocol.types import ControlDefinition, StepDefinition, describe_type, make_adapter

__all__ = ["UNNAMED", "Pipeline", "Step", "step"]

#: The name of a pipeline that has none; it runs in process only.
UNNAMED = "unnamed"

In = TypeVar("In")
Out = TypeVar("Out")

_TEMPLATE = StepSpec(name="step", function="step")


class Step(Factories, BaseModel, Generic[In, Out]):
    """A named function with its terms. Data, not a call: compose it and run the pipeline.

    Attributes:
        name: Letters, digits and `_.:<>-`; stands in task names and metrics.
        agent: An async or sync function, or an object with `run`. Its first parameter is the input; it may ask for
            `context`, `resources` and `run` by name.
        config: The terms.
        updates_context: Its output's keys are set on the context.
        sink_to: Dotted place in the context that gets its output.
        fallback_step: Runs once, on the same input, when every attempt has failed; its result is the step's.
        meta: The user's own.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", ignored_types=(cached_property,))

    name: str = Field(min_length=1)
    agent: Any = None
    config: StepConfig = StepConfig()
    updates_context: bool = False
    sink_to: str | None = None
    fallback_step: Any = None  # a Step; pydantic cannot build a generic class with a field of itself
    meta: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _name_fits(cls, name: str) -> str:
        StepSpec.__pydantic_validator__.validate_assignment(_TEMPLATE, "name", name)
        return name

    @classmethod
    def from_callable(
        cls,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        updates_context: bool = False,
        sink_to: str | None = None,
        config: StepConfig | None = None,
        **terms: Any,
    ) -> Self:
        """Make a step of a function.

        Args:
            function: Async or sync; its first parameter is the input.
            name: Default: the function's.
            terms: Fields of `StepConfig`, over those of `config`.
        """
        label = name or getattr(function, "__name__", type(function).__name__)
        base = (config or StepConfig()).model_dump()
        built = cls(
            name=label,
            agent=function,
            config=StepConfig(**{**base, **terms}),
            updates_context=updates_context,
            sink_to=sink_to,
        )
        _ = built.signature  # faults show where the step is made, not where it runs
        return built

    def fallback(self, step: Step[Any, Any]) -> Self:
        """Set `fallback_step`, and return the step itself.

        Raises:
            InfiniteFallbackError: The step would fall back on itself.
            ConfigurationError: Steps that hold others cannot have or be a fallback.
        """
        if self.is_complex or step.is_complex:
            raise ConfigurationError(f"Step '{self.name}': only a step of a function has, or is, a fallback.")
        if any(link is self for link in step.fallbacks()):
            raise InfiniteFallbackError(f"Fallback loop detected for step '{self.name}'")
        self.fallback_step = step
        return self

    def fallbacks(self) -> Iterator[Step[Any, Any]]:
        """The step, the step that it falls back on, and so on."""
        link: Step[Any, Any] | None = self
        while link is not None:
            yield link
            link = link.fallback_step

    @cached_property
    def signature(self) -> Signature:
        """The function, analysed."""
        return inspect_callable(self.agent, self.name)

    @property
    def is_complex(self) -> bool:
        """Whether the step holds other steps."""
        return False

    @property
    def function(self) -> str:
        """See `StepDefinition.function`."""
        return reference_of(self.agent, self.name)

    @property
    def call(self) -> Callable[..., Any]:
        """See `StepDefinition.call`."""
        return self.signature.call

    @property
    def is_async(self) -> bool:
        """See `StepDefinition.is_async`."""
        return self.signature.is_async

    @property
    def injects(self) -> frozenset[str]:
        """See `StepDefinition.injects`."""
        return self.signature.injects

    @property
    def input_type(self) -> Any:
        """The annotation of the function's first parameter."""
        return self.signature.input_type

    @property
    def output_type(self) -> Any:
        """The annotation of what the function returns."""
        return self.signature.output_type

    @property
    def context_type(self) -> Any:
        """The annotation of its `context` parameter."""
        return self.signature.context_type

    def parts(self) -> Mapping[str, Pipeline]:
        """The pipelines that it holds, by what people call them."""
        return {}

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """The functions of its own that workers call between its parts, by role."""
        return {}

    def to_node(self) -> NodeSpec:
        """The step as a spec's node."""
        return self.to_leaf()

    def to_leaf(self) -> StepSpec:
        """The step as a leaf of a spec."""
        config = self.config
        estimate = {
            COST: to_nano_usd(config.expected_cost_usd),
            TOKENS: config.expected_tokens,
            **config.expected_meters,
        }
        return StepSpec(
            name=self.name,
            function=self.function,
            queue=config.queue,
            retry=RetrySpec(
                retries=config.max_retries,
                base_ms=round(config.backoff_s * 1000),
                most_ms=round(config.backoff_max_s * 1000),
                jitter=config.jitter,
                never=tuple(cls.__name__ for cls in config.never_retry),
            ),
            timeout_ms=None if config.timeout_s is None else max(1, round(config.timeout_s * 1000)),
            estimate={meter: amount for meter, amount in estimate.items() if amount > 0},
            is_async=self.is_async,
            uses_context="context" in self.injects,
            updates_context=self.updates_context,
            sink_to=self.sink_to,
            on_worker_lost=config.on_worker_lost,
            lost_spend=config.lost_spend,
            input_type=describe_type(self.input_type),
            output_type=describe_type(self.output_type),
            fallback=None if self.fallback_step is None else self.fallback_step.to_leaf(),
        )

    def __rshift__(self, other: Step[Any, Any] | Pipeline) -> Pipeline:
        """`a >> b`: b gets a's output."""
        if not isinstance(other, Step | Pipeline):
            raise TypeError(f"Step '{self.name}' goes on with a step or a pipeline, not with {type(other).__name__}.")
        return Pipeline([self, other])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: a step is data.

        Raises:
            ImproperStepInvocationError: Always.
        """
        raise ImproperStepInvocationError(
            f"Step '{self.name}' is not called but composed: run it with Flujo(step).run(...).",
            suggestion="To test its function alone, await step.arun(...).",
        )

    async def arun(self, data: Any, **injected: Any) -> Any:
        """Call the step's function directly, for unit tests."""
        answer = self.call(data, **injected)
        return await answer if self.is_async else answer

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("run", "stream"):
                raise StepInvocationError(self.name)
            return super().__getattr__(name)


class Pipeline(Nesting):
    """Steps one after the other; each gets the output of the one before.

    Args:
        steps: At least one by the time it runs.
        name: By which services submit it; needed to queue it.
        hooks: Called for runs of this pipeline by `Flujo`.
        on_finish: Hooks called after a run only.

    Raises:
        PipelineValidationError: Neighbours declare types that cannot fit; lists all of them. It is a ValueError as well.
    """

    def __init__(
        self,
        steps: Sequence[Step[Any, Any] | Pipeline] = (),
        *,
        name: str | None = None,
        hooks: Sequence[Callable[..., Any]] = (),
        on_finish: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.name = name
        self.steps: list[Step[Any, Any]] = []
        self.hooks = list(hooks)
        self.on_finish = list(on_finish)
        for part in steps:
            if isinstance(part, Pipeline):
                self.steps += part.steps
                self.hooks += part.hooks
                self.on_finish += part.on_finish
            elif isinstance(part, Step):
                self.steps.append(part)
            else:
                raise TypeError(f"A pipeline is made of steps and pipelines, not of {type(part).__name__}.")
        _check_neighbours(self.steps)

    @classmethod
    def from_step(cls, step: Step[Any, Any]) -> Pipeline:
        """A pipeline of one step."""
        return cls([step])

    def named(self, name: str) -> Pipeline:
        """The same pipeline under a name."""
        return Pipeline(self.steps, name=name, hooks=self.hooks, on_finish=self.on_finish)

    def __rshift__(self, other: Step[Any, Any] | Pipeline) -> Pipeline:
        """`pipeline >> step`: the other gets this one's output."""
        if not isinstance(other, Step | Pipeline):
            raise TypeError(f"A pipeline goes on with a step or a pipeline, not with {type(other).__name__}.")
        return Pipeline([self, other], name=self.name)

    def __repr__(self) -> str:
        return f"Pipeline({self.name or UNNAMED!r}: {' >> '.join(step.name for step in self.steps)})"

    @property
    def input_type(self) -> Any:
        """What its first step takes."""
        return self.steps[0].input_type if self.steps else Any

    @property
    def output_type(self) -> Any:
        """What its last step returns."""
        return self.steps[-1].output_type if self.steps else Any

    def iter_steps(self) -> Iterator[Step[Any, Any]]:
        """Its own steps, in order; not those inside branches."""
        return iter(self.steps)

    def all_steps(self) -> Iterator[Step[Any, Any]]:
        """Every step at any depth, in declared order; composites before their parts."""
        for part in self.steps:
            yield from part.fallbacks()
            for inner in part.parts().values():
                yield from inner.all_steps()

    def leaves(self) -> list[Step[Any, Any]]:
        """Every step that runs, at any depth, in declared order."""
        return [part for part in self.all_steps() if not part.is_complex]

    def step_definitions(self) -> Mapping[str, StepDefinition]:
        """Its steps by function reference, as a worker's registry takes them."""
        return {leaf.function: leaf for leaf in self.leaves()}

    def control_definitions(self) -> Mapping[str, ControlDefinition]:
        """The functions of its composites by reference, as a worker's registry takes them."""
        return {
            reference_of(function, part.name): ControlFunction.of(function)
            for part in self.all_steps()
            for function in part.controls().values()
        }

    def to_spec(self) -> PipelineSpec:
        """The pipeline as pure data.

        Raises:
            ConfigurationError: It has no steps.
        """
        return PipelineSpec(
            name=self.name or UNNAMED, root=self.to_sequence(), input_schema=_schema_of(self.input_type)
        )

    def to_sequence(self) -> SequenceSpec:
        """Its steps as a spec's node. Raises `ConfigurationError` if it has none."""
        if not self.steps:
            raise ConfigurationError(f"Pipeline '{self.name or UNNAMED}' has no steps.")
        return SequenceSpec(nodes=tuple(part.to_node() for part in self.steps))


def _check_neighbours(steps: Sequence[Step[Any, Any]]) -> None:
    faults = [
        f"Type mismatch between steps '{one.name}' (returns {describe_type(one.output_type)}) and "
        f"'{other.name}' (expects {describe_type(other.input_type)})"
        for one, other in pairwise(steps)
        if not compatible(one.output_type, other.input_type)
    ]
    if faults:
        raise PipelineValidationError(
            "; ".join(faults) + ".", suggestion="Insert an adapter step or adjust types.", faults=faults
        )


def _schema_of(annotation: Any) -> dict[str, object]:
    adapter = make_adapter(annotation)
    try:
        return {} if adapter is None else adapter.json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {}


@overload
def step(function: Callable[..., Any], /) -> Step[Any, Any]: ...
@overload
def step(*, name: str | None = None, **terms: Any) -> Callable[[Callable[..., Any]], Step[Any, Any]]: ...
def step(function: Callable[..., Any] | None = None, /, **terms: Any) -> Any:
    """Make a function a step: `@step`, or `@step(max_retries=2, timeout_s=30)`.

    Args:
        terms: As `Step.from_callable` takes them: `name`, `updates_context`, `sink_to`, `config`, and the fields of
            `StepConfig`.
    """
    if function is not None:
        return Step.from_callable(function)
    return lambda decorated: Step.from_callable(decorated, **terms)
