"""Models of the public API whose faults are told in one line of words: which option, what it was, which name was meant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, ClassVar

import jsonschema
import pydantic_core
from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic import ValidationError as PydanticValidationError
from pydantic_core import CoreSchema, core_schema

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["Told", "closest", "meant", "misfit", "words_of"]

#: Longest value that is shown beside what is wrong with it.
_MOST_SHOWN = 60

#: How alike names are that one may have been meant for the other; how many names are few enough to be listed.
_CLOSE = 0.55
_FEW = 8


class Told(BaseModel):
    """A model that refuses what it cannot be made of with a `ConfigurationError` instead of pydantic's own error."""

    _refusal: ClassVar[type[ConfigurationError]] = ConfigurationError

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Around everything: validators of a class that inherits this would lie outside one of its own."""
        return core_schema.no_info_wrap_validator_function(cls._tell, handler(source))

    @classmethod
    def _tell(cls, data: Any, handler: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(data)
        except PydanticValidationError as error:
            faults = words_of(error, cls._options())
            raise cls._refusal(f"{cls._called(data)}: {'; '.join(faults)}.", faults=faults) from error

    @classmethod
    def _called(cls, data: Any) -> str:
        """What is refused, as the error names it."""
        return f"{cls.__name__} cannot be made"

    @classmethod
    def _options(cls) -> list[str]:
        """What it can be given."""
        return [field.alias or name for name, field in cls.model_fields.items()]


def words_of(error: PydanticValidationError, options: Collection[str]) -> list[str]:
    """What is wrong with what a model was made of, a line for each option that is.

    Args:
        options: Of the model.
    """
    told: dict[str, str] = {}
    for fault in error.errors(include_url=False):
        place = [str(part) for part in fault["loc"] if part != "[key]"]
        where = place[0] if place else ""
        if fault["type"] == "extra_forbidden" and len(place) == 1:
            words = f"{where} is no option of it{meant(where, options)}"
        else:
            words = fault["msg"].removeprefix("Value error, ").rstrip(".") + _given(fault)
            words = f"{'.'.join(place)}: {words}" if place else words
        told.setdefault(where, words)
    return list(told.values())


def _given(fault: Any) -> str:
    """The value that is refused, where it is short and says something."""
    given = fault["input"]
    if fault["type"] in ("missing", "value_error") or not isinstance(given, str | int | float | bool | None):
        return ""
    shown = repr(given)
    return f", not {shown}" if len(shown) <= _MOST_SHOWN else ""


def misfit(schema: Mapping[str, Any], value: Any) -> str | None:
    """Where a value does not fit a JSON schema, and why, without the value: what is told of it may be stored and logged.

    Returns:
        Such as `$.pages[0]: it is not of type 'integer'`; None if it fits.
    """
    plain = pydantic_core.to_jsonable_python(value)
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(plain))
    return None if fault is None else f"{fault.json_path}: {fault.message.replace(repr(fault.instance), 'it')}"


def closest(name: str, known: Collection[str]) -> str | None:
    """The known name that is most like another, or has it in it; None if none is."""
    return next(
        iter(get_close_matches(name, known, 1, _CLOSE) or (one for one in known if name.lower() in one.lower())), None
    )


def meant(name: str, known: Collection[str]) -> str:
    """` (did you mean ...?)` for a name that is close to one of those known; of a few known ones without a close one all."""
    close = closest(name, known)
    if close is not None:
        return f" (did you mean {close}?)"
    return f" (it has {', '.join(known)})" if len(known) <= _FEW else ""
