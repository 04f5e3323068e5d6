"""What an attempt reads: its input, its context, and the contexts of branches, from the payloads that reserve.lua returned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel

from flujo_client.protocol.context import ContextData, fold_context, snapshot_of
from flujo_client.protocol.payloads import Expression, PayloadCodec, evaluate, evaluate_json, expression_fields
from flujo_client.protocol.results import FAILED_BRANCH, as_read
from flujo_client.protocol.types import Producer, StepDefinition, TypeValidator
from flujo_worker.attempt import Attempt
from flujo_worker.policies.earlier_outputs import EarlierOutputs
from flujo_worker.policies.step_context import StepContext

__all__ = ["AttemptInputs", "InputReader"]


class InputReader:
    """Reads what attempts got.

    Args:
        codec: Of the payloads.
        validator: Checks values.
        find: The step of a function reference; None if this worker does not have it.
        earlier: The outputs that contexts have.
    """

    def __init__(
        self,
        codec: PayloadCodec,
        validator: TypeValidator,
        find: Callable[[str], StepDefinition | None],
        earlier: EarlierOutputs,
    ) -> None:
        self._codec = codec
        self._validator = validator
        self._find = find
        self._earlier = earlier

    def of(self, attempt: Attempt) -> AttemptInputs:
        """The payloads of one attempt."""
        return AttemptInputs(attempt, self._codec, self._validator, self._find, self._earlier)


class AttemptInputs:
    """The payloads of one attempt.

    Args:
        attempt: Which; its payloads are in the order of its task's terms: input, context, contexts of branches.
        codec: Of the payloads.
        validator: Checks values.
        find: The step of a function reference; None if this worker does not have it.
        earlier: The outputs that contexts have.
    """

    def __init__(
        self,
        attempt: Attempt,
        codec: PayloadCodec,
        validator: TypeValidator,
        find: Callable[[str], StepDefinition | None],
        earlier: EarlierOutputs,
    ) -> None:
        self._task = task = attempt.task
        self._ref = attempt.ref
        self._earlier = earlier
        self._codec = codec
        self._validator = validator
        self._find = find
        branches = dict.fromkeys(name for names in task.branches.values() for name in names)
        outputs = [name for output in task.outputs.values() for name in expression_fields(output.expression)]
        names = [*expression_fields(task.expression), *task.context, *branches, *outputs]
        self._payloads = dict(zip(names, attempt.reserved.payloads, strict=True))

    def for_step(self, definition: StepDefinition) -> Any:
        """The input as the step declares it. Raises `TypeMismatchError` if it does not fit."""
        text = self._json(self._task.expression)
        if text is None:
            producer = Producer(self._task.producer, self._task.producer_type)
            return self._validator.validate_step_output(producer, self._live(self._task.expression), definition)
        if self._validator.takes_anything(definition):
            return self._restored(text, self._task.producer_function)
        if self._is_narrower(definition):
            value = self._restored(text, self._task.producer_function)
            if isinstance(value, definition.input_type):
                return value
        producer = Producer(self._task.producer, self._task.producer_type)
        return self._validator.validate_step_output(producer, None, definition, text=text)

    def _is_narrower(self, definition: StepDefinition) -> bool:
        """Whether the step before declares a subclass of what this one takes: its object is passed on whole."""
        producer = self._find(self._task.producer_function) if self._task.producer_function else None
        made, taken = None if producer is None else producer.output_type, definition.input_type
        return isinstance(made, type) and isinstance(taken, type) and made is not taken and _derives(made, taken)

    def for_control(self, declared: Any) -> Any:
        """The input of a composite's function: as the function declares it, or else as the step that made it does."""
        text = self._json(self._task.expression)
        if text is not None and self._validator.is_anything(declared):
            return self._restored(text, self._task.producer_function)
        value = self._live(self._task.expression) if text is None else None
        return self._validator.restore(declared, value, text)

    def by_field(self) -> dict[str, Any]:
        """The payloads of the input by their fields; without those that nobody stored, as of a step whose worker died."""
        fields = expression_fields(self._task.expression)
        return {field: self._read(field) for field in fields if self._payloads[field]}

    def typed(self, function: str, value: Any) -> Any:
        """What a step returned, as it declares it. Of a function that this worker does not have, as it is."""
        producer = self._find(function)
        return value if producer is None else self._validator.restore(producer.output_type, value)

    def as_produced(self) -> Any:
        """The output of the step before, as that step declares it."""
        return self._produced(self._task.expression, self._task.producer_function)

    def earlier_outputs(self) -> dict[str, Any]:
        """What the step's template reads of earlier ones beside its input, by name, as those declare it."""
        return {name: self._produced(ref.expression, ref.function) for name, ref in self._task.outputs.items()}

    def _produced(self, expression: Expression, function: str) -> Any:
        text = self._json(expression)
        return self._live(expression) if text is None else self._restored(text, function)

    def _restored(self, text: bytes, function: str) -> Any:
        """A value as its producer declares it, so that it is the same object on a fleet as in process."""
        producer = self._find(function) if function else None
        return self._validator.restore(Any if producer is None else producer.output_type, None, text)

    def context(self, model: type[BaseModel]) -> StepContext:
        """The context of the attempt's scope. Raises `ContextError` if it does not fit the model."""
        stored = [self._codec.decode(self._payloads[name]) for name in self._task.context]
        return StepContext.build(stored, model, self._ref.run_id, self.outputs_of(None))

    def context_of(self, data: ContextData, model: type[BaseModel], branch: str | None = None) -> BaseModel:
        """Data as a context that the attempt's functions get; of a branch with the outputs that the branch saw at its end."""
        return StepContext.build([snapshot_of(data)], model, self._ref.run_id, self.outputs_of(branch)).model

    def outputs_of(self, branch: str | None) -> Callable[[], dict[str, Any]]:
        """What fetches the outputs of earlier steps, as those declare them: a closure, so that a copied context shares it."""

        def fetch() -> dict[str, Any]:
            found, payloads = self._earlier.before(self._ref, branch)
            self._payloads = payloads | self._payloads
            return {name: self._produced(output.expression, output.function) for name, output in found.items()}

        return fetch

    def context_data(self, names: Sequence[str]) -> ContextData:
        """A context as plain data."""
        return fold_context(self._codec.decode(self._payloads[name]) for name in names)

    def _json(self, expression: Expression) -> bytes | None:
        """The JSON of an expression; None if its payloads are live objects, or become objects that any reader gets."""
        if any(field.startswith(f"{FAILED_BRANCH}:") for field in expression_fields(expression)):
            return None
        return evaluate_json(expression, lambda field: self._codec.json(self._payloads[field]))

    def _live(self, expression: Expression) -> Any:
        return evaluate(expression, self._read)

    def _read(self, field: str) -> Any:
        return as_read(field, self._codec.decode(self._payloads[field]))


def _derives(made: type, taken: type) -> bool:
    """Whether a class of models or dataclasses derives from another; what JSON itself knows is checked as such."""
    own = issubclass(taken, BaseModel) or hasattr(taken, "__dataclass_fields__")
    return own and issubclass(made, taken)
