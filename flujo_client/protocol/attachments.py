"""What users attach to a step besides its function: plugins, validators, processors and invariants, and what these answer.

They are objects of the module that defines the step; a worker finds them on its own definition of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AgentProcessors",
    "AppResources",
    "Attachments",
    "PluginOutcome",
    "Processor",
    "ValidationPlugin",
    "ValidationResult",
    "Validator",
]


class AppResources(BaseModel):
    """Base of what steps share without sending it: clients, pools, models.

    A resources object that is a context manager, async or not, is entered and left once per attempt.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)


class PluginOutcome(BaseModel):
    """What a plugin thinks of an output.

    Attributes:
        success: Whether the output may stand.
        feedback: Why not, for the step's feedback.
        redirect_to: An agent, or a step, to ask instead, on the same input; its output is judged in turn.
        new_solution: Takes the place of the output.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    success: bool
    feedback: str | None = None
    redirect_to: Any = None
    new_solution: Any = None


@runtime_checkable
class ValidationPlugin(Protocol):
    """Judges a step's output, and may correct it or ask somebody else."""

    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        """Judge. `data` has `input` and `output`, and `feedback` of the plugin before, if there was any."""


class ValidationResult(BaseModel):
    """What a validator thinks of an output.

    Attributes:
        score: 0 to 1; by default 1 if the output is valid and 0 if not.
        diff: What is missing, in any form.
    """

    is_valid: bool
    score: float = Field(default_factory=lambda fields: 1.0 if fields.get("is_valid") else 0.0)
    diff: str | None = None
    feedback: str | None = None
    validator_name: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


@runtime_checkable
class Validator(Protocol):
    """Says whether a step's final output is valid. A failure fails the step, and is not tried again."""

    name: str

    async def validate(self, output_to_check: Any, *, context: Any = None) -> ValidationResult:
        """Judge an output."""


#: An object with `process(data, context)`, sync or async, or a callable that takes the same.
Processor = Any


class AgentProcessors(BaseModel):
    """What shapes a step's input before its function, and the output after it; each in order."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    prompt_processors: list[Processor] = Field(default_factory=list)
    output_processors: list[Processor] = Field(default_factory=list)
    validators: list[Any] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Attachments:
    """Everything attached to one step; each in the order in which it is called."""

    plugins: tuple[Any, ...] = ()
    validators: tuple[Any, ...] = ()
    prompt_processors: tuple[Any, ...] = ()
    output_processors: tuple[Any, ...] = ()
    invariants: tuple[str | Callable[..., Any], ...] = ()

    def __bool__(self) -> bool:
        return any((self.plugins, self.validators, self.prompt_processors, self.output_processors, self.invariants))
