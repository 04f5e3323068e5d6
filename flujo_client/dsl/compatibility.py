"""Whether one step's declared output can be another's input. Pure; values are checked when they exist."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any

import typing_extensions

__all__ = ["compatible"]


def compatible(output: Any, expected: Any) -> bool:
    """Whether a value of one annotation may be of another. In doubt yes: the worker checks the value."""
    if _unknown(output) or _unknown(expected):
        return True
    outputs, wanted = _members(output), _members(expected)
    if len(outputs) > 1 or len(wanted) > 1:
        return any(compatible(one, other) for one in outputs for other in wanted)
    origin, wanted_origin = _class(outputs[0]), _class(wanted[0])
    if (
        origin is not wanted_origin
        and dict in (origin, wanted_origin)
        and _model_like(origin)
        and _model_like(wanted_origin)
    ):
        return True  # a dict may hold a model's fields, and a TypedDict is a dict
    if not (isinstance(origin, type) and isinstance(wanted_origin, type)):
        return True
    if not issubclass(origin, wanted_origin) and not (origin is int and wanted_origin is float):
        return False
    mine, theirs = typing.get_args(outputs[0]), typing.get_args(wanted[0])
    return len(mine) != len(theirs) or all(compatible(one, other) for one, other in zip(mine, theirs, strict=True))


def _unknown(annotation: Any) -> bool:
    return annotation in (Any, object, inspect.Parameter.empty) or isinstance(annotation, str | typing.TypeVar)


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _class(annotation: Any) -> Any:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing_extensions.is_typeddict(annotation):
        return dict
    return type(None) if annotation is None else typing.get_origin(annotation) or annotation


def _model_like(cls: Any) -> bool:
    return isinstance(cls, type) and (
        issubclass(cls, dict) or hasattr(cls, "model_fields") or hasattr(cls, "__dataclass_fields__")
    )
