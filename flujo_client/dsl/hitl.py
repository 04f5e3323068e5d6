"""`HumanInTheLoopStep`: asks a human; the answer is its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import to_jsonable_python

from flujo_client.dsl.composites import composite
from flujo_client.dsl.pipeline import Step
from flujo_client.protocol.spec import HitlSpec
from flujo_client.protocol.types import describe_type, make_adapter

__all__ = ["HumanInTheLoopStep"]


@composite("hitl")
class HumanInTheLoopStep(Step[Any, Any]):
    """Pauses the run until somebody answers; no worker is held meanwhile, and branches beside it go on.

    Attributes:
        message_for_user: Template of the question; it knows `previous_step`, the input, and `context`. Default: the input
            as text.
        input_schema: What the answer must be: a pydantic model or any other annotation, or a JSON schema. An answer that
            does not fit is refused, and the run stays paused.
        sink_to: Dotted place in the context that gets the answer.
        expires_in_s: How long an answer is waited for, s; None for ever.
        on_expiry: Whether the step fails then, or goes on with `default_answer`.
        default_answer: Must fit `input_schema`.
        remind_after_s: When people are reminded, s after the question: `on_pause_requested` is called again, and an event
            `reminded` stands in the run's stream.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    message_for_user: str | None = None
    input_schema: Any = None
    expires_in_s: float | None = Field(None, gt=0)
    on_expiry: Literal["fail", "answer"] = "fail"
    default_answer: Any = None
    remind_after_s: list[float] = Field(default_factory=list)

    @model_validator(mode="after")
    def _default_fits(self) -> Self:
        if self.on_expiry == "answer":
            self.accept(self.default_answer)
        return self

    @property
    def function(self) -> str:
        """By which workers know the type of the answer."""
        kind = self.output_type
        return f"human:{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', describe_type(kind))}"

    @property
    def call(self) -> Callable[..., Any]:
        """See `StepDefinition.call`: there is nothing to call but the type of the answer."""
        kind: Callable[..., Any] = self.output_type
        return kind

    @property
    def stream_call(self) -> None:
        """None: nothing runs."""

    @property
    def is_async(self) -> bool:
        """False: nothing runs."""
        return False

    @property
    def injects(self) -> frozenset[str]:
        """The context: the question is rendered with it, and the answer is written there."""
        return frozenset({"context"})

    @property
    def input_type(self) -> Any:
        """Anything may be asked about."""
        return Any

    @property
    def output_type(self) -> Any:
        """What the answer must be."""
        return Any if self.input_schema is None or isinstance(self.input_schema, dict) else self.input_schema

    @property
    def context_type(self) -> Any:
        """The run's own."""
        return Any

    def accept(self, answer: Any) -> Any:
        """An answer as the schema's type. Raises pydantic's `ValidationError` if it does not fit."""
        return answer if self.output_type is Any else TypeAdapter(self.output_type).validate_python(answer)

    def to_node(self) -> HitlSpec:
        """The step as a spec's node."""
        if isinstance(self.input_schema, dict):
            schema = self.input_schema
        else:
            adapter = None if self.output_type is Any else make_adapter(self.output_type)
            schema = {} if adapter is None else adapter.json_schema()
        return HitlSpec(
            name=self.name,
            message=self.message_for_user,
            answer_schema=schema,
            function=self.function,
            output_type=describe_type(self.output_type),
            queue=self.config.queue,
            sink_to=self.sink_to,
            expires_ms=None if self.expires_in_s is None else max(1, round(self.expires_in_s * 1000)),
            on_expiry=self.on_expiry,
            default=to_jsonable_python(self.default_answer),
            reminders_ms=tuple(max(1, round(after_s * 1000)) for after_s in self.remind_after_s),
        )
