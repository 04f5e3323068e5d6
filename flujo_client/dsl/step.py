"""`Step`: a named function with its terms. `factories.py` makes steps that hold pipelines."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, field_validator
from pydantic import ValidationError as PydanticValidationError

from flujo_client.dsl.adapters import SelectKey
from flujo_client.dsl.callables import check_injection
from flujo_client.dsl.composites import COMPOSITES
from flujo_client.dsl.config import StepConfig, adapter_marks, override_config
from flujo_client.dsl.definition import Definition
from flujo_client.dsl.factories import Factories
from flujo_client.dsl.findings import ValidationFinding
from flujo_client.dsl.leaf import leaf_of
from flujo_client.protocol.attachments import AgentProcessors
from flujo_client.protocol.errors import (
    ConfigurationError,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    StepInvocationError,
)
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.spec import NodeSpec, StepSpec
from flujo_client.protocol.told import Told

if TYPE_CHECKING:
    from flujo_client.dsl.pipeline import Pipeline

__all__ = ["Step"]

logger = logging.getLogger(__name__)

In = TypeVar("In")
Out = TypeVar("Out")

_TEMPLATE = StepSpec(name="step", function="step")


class _Declared:
    """A type that a step declares, under the name that existing code reads it by; of the class, `object`."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute

    def __get__(self, step: object, owner: type) -> Any:
        return object if step is None else getattr(step, self._attribute)


class Step(Factories, Definition, Told, Generic[In, Out]):
    """A named function with its terms. Data, not a call: compose it and run the pipeline.

    Attributes:
        name: Letters, digits and `_.:<>-`; stands in task names and metrics.
        agent: An async or sync function, or an object with `run`; or the name of one, see `resolve_agent`. Its first
            parameter is the input; it may ask for `context`, `resources` and `run` by name.
        config: The terms.
        plugins: Judge the output, those of the highest priority first; `(plugin, priority)`, or a plugin alone.
        validators: Say whether the output is valid; a failure is not tried again.
        processors: Shape the input before the function and the output after it.
        static_invariants: What must hold after the step: expressions over `output` and `context`, or functions.
        discovery_agent: Kept for existing code.
        failure_handlers: Called without arguments when the step has failed for good, beside its fallback too, before
            `on_step_failure`; on a worker. What one raises ends the run.
        fallback_step: Runs once, on the same input, when every attempt has failed; its result is the step's.
        usage_limits: The most that the step may use, all attempts together.
        persist_feedback_to_context: List in the context that gets the feedback of each failed attempt.
        persist_validation_results_to: List in the context that gets what the validators said.
        input_: Instead of the output of the step before; may hold `{{ }}` templates over `context`, `previous_step` and
            `steps`. Given as `input=`.
        updates_context: Its output's keys are set on the context.
        validate_fields: Such a key must be a field of the context's model.
        sink_to: Dotted place in the context that gets its output.
        input_keys, output_keys: Dotted places of the context that it reads and writes. They must be there before it runs,
            and after it; what nobody can have written is found before anything runs.
        meta: The user's own, and what marks adapters.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        extra="forbid",
        ignored_types=(cached_property, _Declared),
    )

    __step_input_type__ = _Declared("input_type")
    __step_output_type__ = _Declared("output_type")

    name: str = Field(min_length=1)
    agent: Any = None
    config: StepConfig = StepConfig()
    plugins: list[tuple[Any, int]] = Field(default_factory=list)
    validators: list[Any] = Field(default_factory=list)
    processors: AgentProcessors = Field(default_factory=AgentProcessors)
    static_invariants: list[Any] = Field(default_factory=list)
    discovery_agent: Any = None
    failure_handlers: list[Callable[[], Any]] = Field(default_factory=list)
    fallback_step: Any = Field(
        None, exclude=True
    )  # a Step; pydantic cannot build a generic class with a field of itself
    usage_limits: UsageLimits | None = None
    persist_feedback_to_context: str | None = None
    persist_validation_results_to: str | None = None
    input_: Any = Field(None, validation_alias=AliasChoices("input", "input_"))
    updates_context: bool = False
    validate_fields: bool = False
    sink_to: str | None = None
    input_keys: list[str] = Field(default_factory=list)
    output_keys: list[str] = Field(default_factory=list)
    meta: dict[str, Any] = Field(default_factory=dict)
    _of_function: bool = PrivateAttr(False)

    @classmethod
    def _called(cls, data: Any) -> str:
        return f"Step '{data.get('name') if isinstance(data, dict) else data}' cannot be made"

    @classmethod
    def _options(cls) -> list[str]:
        return [*super()._options(), *StepConfig._options()]

    @field_validator("name")
    @classmethod
    def _name_fits(cls, name: str) -> str:
        try:
            StepSpec.__pydantic_validator__.validate_assignment(_TEMPLATE, "name", name)
        except PydanticValidationError as error:
            raise ValueError(
                f"{name!r} names no step: use up to 120 letters, digits and _.:<>- that begin with a letter, a digit or _"
            ) from error
        return name

    @field_validator("plugins", mode="before")
    @classmethod
    def _with_priorities(cls, plugins: Any) -> Any:
        return [plugin if isinstance(plugin, tuple | list) else (plugin, 0) for plugin in plugins]

    def model_post_init(self, context: Any, /) -> None:
        """Note a templated input where existing code looks for it."""
        super().model_post_init(context)
        if self.input_ is not None:
            self.meta["templated_input"] = self.input_

    @classmethod
    def from_callable(
        cls,
        function: Callable[..., Any],
        name: str | None = None,
        updates_context: bool = False,
        validate_fields: bool = False,
        sink_to: str | None = None,
        processors: AgentProcessors | None = None,
        persist_feedback_to_context: str | None = None,
        persist_validation_results_to: str | None = None,
        is_adapter: bool = False,
        adapter_id: str | None = None,
        adapter_allow: str | None = None,
        config: StepConfig | None = None,
        **terms: Any,
    ) -> Self:
        """Make a step of a function.

        Args:
            function: Async or sync; its first parameter is the input.
            name: Default: the function's.
            is_adapter: The step may stand between two whose types do not fit; needs `adapter_id` and `adapter_allow`.
            terms: Other fields of the step, and those of `StepConfig`, over those of `config`.

        Raises:
            ValueError: An adapter without its id or its allowance.
            ConfigurationError: An option is unknown, or cannot be what it is.
        """
        called = name or str(getattr(function, "__name__", type(function).__name__))
        own = {key: terms.pop(key) for key in StepConfig.model_fields if key in terms}
        built = cls(
            name=called,
            agent=function,
            config=override_config(called, config, own),
            updates_context=updates_context,
            validate_fields=validate_fields,
            sink_to=sink_to,
            processors=processors or AgentProcessors(),
            persist_feedback_to_context=persist_feedback_to_context,
            persist_validation_results_to=persist_validation_results_to,
            meta={**(adapter_marks(adapter_id, adapter_allow) if is_adapter else {}), **terms.pop("meta", {})},
            **terms,
        )
        built._of_function = True
        try:
            check_injection(function, built.name)
        except ConfigurationError as error:
            logger.error("a step's function asks for what it does not declare", extra={"error": str(error)})  # noqa: TRY400 - no traceback: nothing failed
        _ = built.signature  # faults show where the step is made, not where it runs
        return built

    @classmethod
    def from_mapper(cls, function: Callable[..., Any], name: str | None = None, **terms: Any) -> Self:
        """The same as `from_callable`, under the name that says what a mapper is for."""
        return cls.from_callable(function, name, **terms)

    def add_plugin(self, plugin: Any) -> Self:
        """Add a plugin of priority 0, and return the step itself."""
        self.plugins.append((plugin, 0))
        return self

    def named(self, name: str) -> Self:
        """The same step under another name, for a second place in a pipeline; the step itself stays as it is.

        Raises:
            ConfigurationError: That names no step.
        """
        try:
            self._name_fits(name)
        except ValueError as error:
            raise ConfigurationError(f"{error}.") from error
        own = {field: copy(value) for field, value in self if isinstance(value, list | dict)}
        made = self.model_copy(update={**own, "name": name})
        made.__dict__ = {field: value for field, value in vars(made).items() if field in type(self).model_fields}
        return made

    def use_input(self, key: str) -> Pipeline:
        """The step on one entry of a dict: an adapter `select_<key>` before it. A missing entry is a `KeyError`."""
        select: Step[Any, Any] = Step(name=f"select_{key}", agent=SelectKey(key), meta=adapter_marks("select", key))
        return select >> self

    def fallback(self, step: Step[Any, Any]) -> Self:
        """Set `fallback_step`, and return the step itself.

        Raises:
            InfiniteFallbackError: The step would fall back on itself.
            ConfigurationError: Steps that hold others cannot have or be a fallback.
            TypeError: It is no step.
        """
        if not isinstance(step, Step):
            raise TypeError(f"Step '{self.name}' falls back on a step, not on {type(step).__name__}.")
        if self.is_complex or step.is_complex:
            raise ConfigurationError(f"Step '{self.name}': only a step of a function has, or is, a fallback.")
        if any(link is self for link in step.fallbacks()):
            raise InfiniteFallbackError(f"Fallback loop detected for step '{self.name}'")
        self.fallback_step = step
        return self

    def fallbacks(self) -> Iterator[Step[Any, Any]]:
        """The step, the step that it falls back on, and so on. Raises `InfiniteFallbackError` if that goes in a circle."""
        link: Step[Any, Any] | None = self
        seen: list[Step[Any, Any]] = []
        while link is not None:
            if any(link is step for step in seen):
                raise InfiniteFallbackError(f"Fallback loop detected for step '{link.name}'")
            seen.append(link)
            yield link
            link = link.fallback_step

    def redirected(self, target: Any) -> Step[Any, Any]:
        """See `StepDefinition.redirected`."""
        if isinstance(target, Step):
            return target
        return Step(name=self.name, agent=target, processors=self.processors)

    @property
    def is_complex(self) -> bool:
        """Whether the step holds other steps."""
        return False

    def parts(self) -> Mapping[str, Pipeline]:
        """The pipelines that it holds, by what people call them."""
        return {}

    def entries(self) -> Mapping[str, Pipeline]:
        """Those of its parts that get its own input as it is."""
        return {}

    def findings(self) -> Iterable[ValidationFinding]:
        """What may be wrong with it, beside its types and its parts."""
        return ()

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """The functions of its own that workers call between its parts, by role."""
        return {}

    def to_node(self) -> NodeSpec:
        """The step as a spec's node."""
        return self.to_leaf()

    def to_leaf(self) -> StepSpec:
        """The step as a leaf of a spec."""
        return leaf_of(self)

    def __rshift__(self, other: Step[Any, Any] | Pipeline) -> Pipeline:
        """`a >> b`: b gets a's output."""
        if not isinstance(other, (Step, COMPOSITES["sequence"])):  # type: ignore[arg-type]  # the table holds a class
            raise TypeError(f"Step '{self.name}' goes on with a step or a pipeline, not with {type(other).__name__}.")
        made: Pipeline = COMPOSITES["sequence"]([self, other])
        return made

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
        return await answer if inspect.isawaitable(answer) else answer

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in ("run", "stream"):
                raise StepInvocationError(self.name)
            return super().__getattr__(name)
