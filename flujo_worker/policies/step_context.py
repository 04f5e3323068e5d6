"""A step's context: built from stored payloads, and what the step changed in it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.context import SNAPSHOT_AFTER, ContextData, delta_between, fold_context, snapshot_of
from flujo_client.protocol.errors import ContextError
from flujo_client.protocol.spec import StepSpec

__all__ = ["StepContext", "set_in_context"]


@dataclass(slots=True)
class StepContext:
    """The context of one attempt: its own copy, so that a failed attempt changes nothing.

    Attributes:
        model: What the step gets.
    """

    model: BaseModel
    _before: ContextData
    _unknown: ContextData
    _deltas: int

    @classmethod
    def build(cls, payloads: Sequence[Mapping[str, Any]], model: type[BaseModel], run_id: str) -> StepContext:
        """Build the context.

        Args:
            payloads: A snapshot and its deltas.
            model: What the step's `context` parameter declares; keys that it does not know are left as they are.

        Raises:
            ContextError: The stored context does not fit the model.
        """
        data = fold_context(payloads)
        if "run_id" in model.model_fields or model.model_config.get("extra") == "allow":
            data.setdefault("run_id", run_id)
        try:
            built = model.model_validate(data)
        except PydanticValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise ContextError(
                f"The context of run {run_id} does not fit {model.__name__}: {fault['loc']}: {fault['msg']}."
            ) from error
        before = built.model_dump()
        unknown = {key: value for key, value in data.items() if key not in before}
        return cls(built, before, unknown, len(payloads))

    def apply(self, step: StepSpec, output: Any) -> None:
        """Put a step's output into the context, as the step declares.

        Raises:
            ContextError: The output does not fit the field it is for.
        """
        if step.sink_to is not None:
            set_in_context(self.model, step.sink_to, output)
        if step.updates_context:
            values = output.model_dump() if isinstance(output, BaseModel) else output
            if isinstance(values, Mapping):
                for key, value in values.items():
                    set_in_context(self.model, str(key), value)

    def change(self) -> tuple[str, dict[str, Any]] | None:
        """What to commit: ("delta" or "snapshot", payload); None if nothing changed."""
        after = self.model.model_dump()
        delta = delta_between(self._before, after)
        if delta is None:
            return None
        if self._deltas == 0 or self._deltas > SNAPSHOT_AFTER:
            return "snapshot", snapshot_of({**self._unknown, **after})
        return "delta", delta


def set_in_context(model: BaseModel, place: str, value: Any) -> None:
    """Set a dotted place of a context.

    Raises:
        ContextError: The value does not fit the field.
    """
    target: Any = model
    *parents, last = place.split(".")
    for name in parents:
        target = target[name] if isinstance(target, dict) else getattr(target, name)
    try:
        if isinstance(target, dict):
            target[last] = value
        else:
            setattr(target, last, value)
    except (PydanticValidationError, ValueError) as error:
        fields = type(target).model_fields
        expected = fields[last].annotation if last in fields else "nothing"
        name = expected.__name__ if inspect.isclass(expected) else str(expected)
        raise ContextError(
            f"Context validation failed: Field '{last}' expects {name} but got {type(value).__name__}: {value}"
        ) from error
