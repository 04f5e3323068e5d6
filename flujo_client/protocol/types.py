"""What a step declares about its values, and the check of values against it.

A declared type is any annotation that pydantic understands: classes, models, Optional, Union, generics, TypedDict.
`Any`, `object`, `BaseModel` itself and no annotation accept everything.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from typing import Any, NotRequired, Protocol, Required, runtime_checkable

import pydantic_core
import typing_extensions
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic import ValidationError as PydanticValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from typing_extensions import TypedDict

from flujo_client.protocol.attachments import Attachments
from flujo_client.protocol.errors import PayloadError, TypeMismatchError
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.spec import PipelineSpec

__all__ = [
    "RUN_INPUT",
    "ControlDefinition",
    "PipelineDefinition",
    "Producer",
    "StepDefinition",
    "TypeValidator",
    "TypedStep",
    "describe_type",
    "make_adapter",
]

_ANYTHING = (Any, object, BaseModel, inspect.Parameter.empty)

#: A bool is an int, as in Python; JSON knows the two apart.
_BOOLEANS = {b"true": True, b"false": False}

#: What is read once and lazily: its elements cannot be looked at before the step does.
_LAZY = (Iterable, Iterator, Generator, AsyncIterable, AsyncIterator, AsyncGenerator)


class TypedStep(Protocol):
    """A step as far as its types go."""

    @property
    def name(self) -> str:
        """The step's name."""

    @property
    def input_type(self) -> Any:
        """The annotation of its input."""

    @property
    def output_type(self) -> Any:
        """The annotation of its output."""


@runtime_checkable
class StepDefinition(TypedStep, Protocol):
    """A step that a worker can run. The DSL's `Step` is one; the worker reads steps only through this."""

    @property
    def function(self) -> str:
        """The name under which specs refer to it: module:qualname, or a registered name."""

    @property
    def call(self) -> Callable[..., Any]:
        """The user's function; its first argument is the input."""

    @property
    def stream_call(self) -> Callable[..., Any] | None:
        """An async generator function that does the same, chunk by chunk; None if there is none."""

    @property
    def is_async(self) -> bool:
        """Whether `call` must be awaited; if not, it runs in a thread."""

    @property
    def injects(self) -> frozenset[str]:
        """Which of `context`, `resources`, `run` and a model's settings it asks for by keyword."""

    @property
    def context_type(self) -> Any:
        """The annotation of its `context` parameter."""

    @property
    def resolved_agent(self) -> Any:
        """The object that `call` belongs to, or the function itself."""

    @property
    def turn_facts(self) -> Mapping[str, Mapping[str, Any]]:
        """What earlier turns of a granular step depend on, for each mode of their fingerprint; empty for other steps."""

    @property
    def attachments(self) -> Attachments:
        """What the user attached to it."""

    def redirected(self, target: Any) -> StepDefinition:
        """The step that runs another agent on the same input, as a plugin asks for. `target` is an agent or a step."""


class ControlDefinition(Protocol):
    """A function of a composite (a condition, a mapper, a reducer) that a worker can call in a control step."""

    @property
    def call(self) -> Callable[..., Any]:
        """The user's function, sync or async."""

    @property
    def input_type(self) -> Any:
        """The annotation of its first parameter."""

    @property
    def context_type(self) -> Any:
        """The annotation of its context parameter."""

    @property
    def takes(self) -> int:
        """How many positional arguments it takes."""


@runtime_checkable
class PipelineDefinition(Protocol):
    """A pipeline that a worker can serve. The DSL's `Pipeline` is one."""

    def to_spec(self) -> PipelineSpec:
        """The pipeline as data."""

    def step_definitions(self) -> Mapping[str, StepDefinition]:
        """Its steps by function reference."""

    def control_definitions(self) -> Mapping[str, ControlDefinition]:
        """The functions of its composites, by reference."""


@dataclass(frozen=True, slots=True)
class Producer:
    """Where a value came from: a step of which only the name and the described type are known."""

    name: str
    output_type: Any = Any
    input_type: Any = Any


#: Where the input of a run's first steps came from: from no step.
RUN_INPUT = Producer("input", "Any")


def describe_type(annotation: Any) -> str:
    """An annotation as people write it: `int`, `list[str]`, `Page | None`."""
    if annotation in (inspect.Parameter.empty, Any):
        return "Any"
    if isinstance(annotation, str):
        return annotation
    if "Annotated[" in str(
        annotation
    ):  # what a rule is made of has no words, and an address that each process has its own of
        annotation = typing.get_type_hints(types.SimpleNamespace(__annotations__={"one": annotation}))["one"]
    if isinstance(annotation, type) and not hasattr(annotation, "__args__"):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


class TypeValidator:
    """Checks the values that flow between steps, by the steps' own annotations. Stateless."""

    def get_step_input_type(self, step: TypedStep) -> Any:
        """The annotation of a step's input; `Any` when it has none."""
        return Any if step.input_type is inspect.Parameter.empty else step.input_type

    def get_step_output_type(self, step: TypedStep) -> Any:
        """The annotation of a step's output; `Any` when it has none."""
        return Any if step.output_type is inspect.Parameter.empty else step.output_type

    def validate_step_output(
        self, step: TypedStep, output: Any, next_step: TypedStep | None, *, text: bytes | None = None
    ) -> Any:
        """Check one step's output against the next step's input, and return it as that type.

        Args:
            step: The step that made the value.
            output: The value; ignored when `text` is given.
            next_step: The step that gets it; None skips the check.
            text: The value as JSON, when it comes from a payload. JSON is read strictly: "5" is no int.

        Returns:
            The value as the next step declares it: a dict becomes the declared model.

        Raises:
            TypeMismatchError: It does not fit; names both steps, both types and the place in the value.
        """
        if next_step is None:
            return output
        expected = self.get_step_input_type(next_step)
        try:
            return self._conform(expected, output, text)
        except (PydanticValidationError, PayloadError) as error:
            returned = describe_type(self.get_step_output_type(step))
            of_run = step == RUN_INPUT
            value = "The run's input" if of_run else f"Output of '{step.name}' (returns {returned})"
            raise TypeMismatchError(
                f"Type mismatch: {value} is not the input that '{next_step.name}' expects ({describe_type(expected)}): "
                f"{_places(error)}.",
                suggestion="Correct the input." if of_run else "Insert an adapter step or adjust the types.",
                step=step.name,
                next_step=next_step.name,
            ) from error

    def accept_input(self, step: TypedStep, value: Any) -> Any:
        """A step's own input as the type that it declares; what a template made of text is read as that type.

        Raises:
            TypeMismatchError: It does not fit; names the step, its type and the place in the value.
        """
        expected = self.get_step_input_type(step)
        adapter = self._adapter(expected)
        try:
            return value if adapter is None else adapter.validate_python(value)
        except PydanticValidationError as error:
            raise TypeMismatchError(
                f"Type mismatch: The input that step '{step.name}' gives itself is not what it expects "
                f"({describe_type(expected)}): {_places(error)}.",
                suggestion="Correct its template, or its annotation.",
                step=step.name,
            ) from error

    def check_own_output(self, step: TypedStep, output: Any) -> None:
        """Check what a step returned against what it declares.

        Raises:
            TypeMismatchError: It does not fit; names the step, its type and the place in the value.
        """
        declared = self.get_step_output_type(step)
        try:
            self._conform(declared, output, None)
        except PydanticValidationError as error:
            raise TypeMismatchError(
                f"Type mismatch: Step '{step.name}' declares that it returns {describe_type(declared)}, "
                f"but returned a {type(output).__name__}: {_places(error)}.",
                suggestion="Return what is declared, or declare what is returned.",
                step=step.name,
            ) from error
        except PayloadError:
            return  # without a JSON form it can be checked no further; where it must have one, encoding says so

    def is_anything(self, annotation: Any) -> bool:
        """Whether an annotation accepts every value."""
        return annotation in _ANYTHING

    def takes_anything(self, step: TypedStep) -> bool:
        """Whether a step accepts every input."""
        return self.is_anything(step.input_type)

    def restore(self, annotation: Any, value: Any, text: bytes | None = None) -> Any:
        """A value as the type that its producer, or its reader, declares; as it is where it does not fit.

        Args:
            text: The value as JSON, when it comes from a payload.
        """
        try:
            return self._conform(annotation, value, text)
        except (PydanticValidationError, PayloadError):
            return value if text is None else pydantic_core.from_json(text)

    def _conform(self, annotation: Any, value: Any, text: bytes | None) -> Any:
        adapter = self._adapter(annotation)
        if text is not None and annotation is int and text in _BOOLEANS:
            return _BOOLEANS[text]
        if text is not None:
            return pydantic_core.from_json(text) if adapter is None else adapter.validate_json(text, strict=True)
        if adapter is None or (_has_instances(annotation) and isinstance(value, annotation)):
            return value
        try:
            return adapter.validate_python(value, strict=True)
        except PydanticValidationError:
            return adapter.validate_json(json_bytes(value), strict=True)

    def _adapter(self, annotation: Any) -> TypeAdapter[Any] | None:
        if annotation in _ANYTHING:
            return None
        return _remembered_adapter(annotation)


def _has_instances(annotation: Any) -> bool:
    return isinstance(annotation, type) and not typing_extensions.is_typeddict(annotation)


def make_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    """The check of an annotation; None if it cannot be resolved, and so accepts everything."""
    try:
        adapter = TypeAdapter(_checkable(annotation))
    except PydanticSchemaGenerationError:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticUserError, NameError, RecursionError):
        return None
    return adapter if adapter.pydantic_complete else None


#: Compiling a check takes longer than a step that does nothing.
_remembered_adapter = functools.lru_cache(maxsize=1_024)(make_adapter)


def _checkable(annotation: Any) -> Any:
    """An annotation that pydantic checks: before Python 3.12 it refuses the TypedDicts of `typing`, at any depth."""
    if sys.version_info < (3, 12) and typing_extensions.is_typeddict(annotation):
        fields = {
            name: Required[_checkable(hint)] if name in annotation.__required_keys__ else NotRequired[_checkable(hint)]
            for name, hint in typing.get_type_hints(annotation).items()
        }
        return TypedDict(annotation.__name__, fields)  # type: ignore[operator]  # made of what is known at run time only
    if (typing.get_origin(annotation) or annotation) in _LAZY:
        return Any
    parts = typing.get_args(annotation)
    checkable = tuple(_checkable(part) for part in parts)
    if checkable == parts:
        return annotation
    origin = typing.get_origin(annotation)
    return functools.reduce(operator.or_, checkable) if origin is types.UnionType else origin[checkable]


def _places(error: PydanticValidationError | PayloadError) -> str:
    if isinstance(error, PayloadError):
        return str(error)
    faults = [
        f"{'.'.join(map(str, fault['loc'])) or 'value'}: {fault['msg']}"
        for fault in error.errors(include_url=False)[:5]
    ]
    return "; ".join(faults)
