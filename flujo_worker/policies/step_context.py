"""A step's context: built from stored payloads, and what the step changed in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.context import SNAPSHOT_AFTER, ContextData, delta_between, fold_context, snapshot_of
from flujo_client.protocol.errors import ContextError, ContextFieldError
from flujo_client.protocol.pipeline_context import STEP_OUTPUTS, PipelineContext, lend_outputs, stored_fields
from flujo_client.protocol.results import PipelineResult
from flujo_client.protocol.spec import StepSpec
from flujo_client.protocol.types import describe_type

__all__ = ["StepContext", "set_in_context"]

#: What no step may put into a context: a place for everything is a place for nothing.
SCRATCHPAD: Final = "scratchpad"

#: What a place holds that there is not.
_MISSING: Final = object()

#: Fields of the run itself, which an output that is a whole context does not change.
_OF_THE_RUN = frozenset({"run_id", "initial_prompt", "status", STEP_OUTPUTS})


@dataclass(slots=True)
class StepContext:
    """The context of one attempt: its own copy, so that a failed attempt changes nothing.

    Attributes:
        model: What the step gets.
    """

    model: BaseModel
    _stored: ContextData
    _before: ContextData
    _unknown: ContextData
    _deltas: int

    @classmethod
    def build(
        cls,
        payloads: Sequence[Mapping[str, Any]],
        model: type[BaseModel],
        run_id: str,
        fetch_outputs: Callable[[], dict[str, Any]],
    ) -> StepContext:
        """Build the context.

        Args:
            payloads: A snapshot and its deltas.
            model: What the step's `context` parameter declares; keys that it does not know are left as they are.
            fetch_outputs: Gives those of earlier steps, by name: the context's `step_outputs`, once somebody asks for them. A
                model of the user's own that declares such a field, and is no `PipelineContext`, gets them at once.

        Raises:
            ContextError: The stored context does not fit the model.
        """
        data = fold_context(payloads)
        if _knows(model, "run_id"):
            data.setdefault("run_id", run_id)
        if not issubclass(model, PipelineContext) and STEP_OUTPUTS in model.model_fields:
            data[STEP_OUTPUTS] = {**fetch_outputs(), **data.get(STEP_OUTPUTS, {})}
        strict = model.model_config.get("extra") == "forbid"
        try:
            built = model.model_validate({key: data[key] for key in data if not strict or _knows(model, key)})
        except PydanticValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise ContextError(
                f"The context of run {run_id} does not fit {model.__name__}: {fault['loc']}: {fault['msg']}."
            ) from error
        before = built.model_dump()
        unknown = {key: value for key, value in data.items() if key not in before}
        if isinstance(built, PipelineContext):
            lend_outputs(built, fetch_outputs)
        return cls(built, data, before, unknown, len(payloads))

    def apply(self, step: StepSpec, output: Any) -> None:
        """Put a step's output into the context, as the step declares.

        Raises:
            ContextFieldError: The output does not fit the field it is for, or there is no such field.
        """
        if step.sink_to is not None:
            set_in_context(self.model, step.sink_to, output)
        if not step.updates_context:
            return
        values = _values_of(output)
        if values is None:
            raise ContextFieldError(
                f"Context validation failed: Step '{step.name}' updates the context, and returned a "
                f"{type(output).__name__} instead of a dict or a model"
            )
        known = type(self.model).model_fields
        for key, value in values.items():
            if key == SCRATCHPAD:
                raise ContextFieldError("Context validation failed: 'scratchpad' is no field of a context")
            if step.validate_fields and key not in known and self.model.model_config.get("extra") != "allow":
                raise ContextFieldError(f"Context validation failed: {type(self.model).__name__} has no field '{key}'")
            self._merge(str(key), value)

    def append(self, place: str, items: Sequence[Any]) -> None:
        """Put items behind those of a list in the context, which is made if it is missing.

        Raises:
            ContextFieldError: There is something else in its place.
        """
        held = self._get(place)
        if held is not None and not isinstance(held, list):
            raise ContextFieldError(
                f"Context validation failed: '{place}' is a {type(held).__name__}, and no list to append to"
            )
        set_in_context(self.model, place, [*(held or []), *items])

    def require(self, places: Sequence[str], story: str) -> None:
        """Make sure that dotted places are there, whatever is in them.

        Raises:
            ContextFieldError: Names those that are not.
        """
        missing = [place for place in places if self._get(place, _MISSING) is _MISSING]
        if missing:
            raise ContextFieldError(f"Context validation failed: {story} {', '.join(map(repr, missing))}")

    def untouched(self) -> StepContext:
        """The same context as before the attempt, for what a failure keeps."""
        model = type(self.model).model_validate(self._stored)
        return StepContext(model, self._stored, self._before, self._unknown, self._deltas)

    def _get(self, place: str, missing: Any = None) -> Any:
        target: Any = self.model
        for name in place.split("."):
            target = target.get(name, missing) if isinstance(target, dict) else getattr(target, name, missing)
        return target

    def _merge(self, key: str, value: Any) -> None:
        """Set a field; a dict goes into the dict, or the model, that is there."""
        held = getattr(self.model, key, None)
        if isinstance(held, BaseModel) and isinstance(value, Mapping):
            held = held.model_dump()
        if isinstance(held, dict) and isinstance(value, Mapping):
            value = _merged(held, value)
        set_in_context(self.model, key, value)

    def change(self) -> tuple[str, dict[str, Any]] | None:
        """What to commit: ("delta" or "snapshot", payload); None if nothing changed."""
        after = stored_fields(self.model)
        delta = delta_between(self._before, after)
        if delta is None:
            return None
        if self._deltas == 0 or self._deltas > SNAPSHOT_AFTER:
            return "snapshot", snapshot_of({**self._unknown, **after})
        return "delta", delta


def set_in_context(model: BaseModel, place: str, value: Any) -> None:
    """Set a dotted place of a context.

    Raises:
        ContextFieldError: The value does not fit the field, or there is no such place.
    """
    target: Any = model
    *parents, last = place.split(".")
    try:
        for name in parents:
            target = target.setdefault(name, {}) if isinstance(target, dict) else getattr(target, name)
        if isinstance(target, dict):
            target[last] = value
        elif isinstance(target, BaseModel):
            _assign(target, last, value)
        else:
            setattr(target, last, value)
    except (PydanticValidationError, AttributeError, TypeError, ValueError) as error:
        raise ContextFieldError(
            f"Context validation failed: Field '{last}' expects {_expected(target, last)} "
            f"but got {type(value).__name__}: {value}"
        ) from error


def _expected(target: Any, name: str) -> str:
    fields = type(target).model_fields if isinstance(target, BaseModel) else {}
    return describe_type(fields[name].annotation) if name in fields else "nothing"


def _knows(model: type[BaseModel], field: str) -> bool:
    return field in model.model_fields or model.model_config.get("extra") == "allow"


def _values_of(output: Any) -> Mapping[Any, Any] | None:
    """What an output says about the context: a nested run speaks through its own."""
    if isinstance(output, PipelineResult):
        output = output.final_pipeline_context if output.final_pipeline_context is not None else {}
    if not isinstance(output, BaseModel):
        return output if isinstance(output, Mapping) else None
    kept = _OF_THE_RUN if isinstance(output, PipelineContext) else frozenset()
    names = (*type(output).model_fields, *(output.model_extra or {}))
    return {name: getattr(output, name) for name in names if name not in kept}


def _merged(held: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(held[key], value) for key, value in new.items() if _nests(held.get(key), value)}
    return {**held, **new, **both}


def _nests(held: Any, new: Any) -> bool:
    return isinstance(held, Mapping) and isinstance(new, Mapping)


def _assign(model: BaseModel, name: str, value: Any) -> None:
    """Set a field as its annotation declares it, also where the model does not check assignments itself."""
    if name in type(model).model_fields and not model.model_config.get("validate_assignment"):
        checked = type(model).__pydantic_validator__.validate_assignment(model.model_copy(), name, value)
        value = getattr(checked, name)
    setattr(model, name, value)
