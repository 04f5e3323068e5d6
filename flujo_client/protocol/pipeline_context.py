"""The state that a run's steps share: the context, as steps get it."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "BaseContext",
    "ConversationRole",
    "ConversationTurn",
    "ExecutedCommandLog",
    "HumanInteraction",
    "PipelineContext",
    "typed_context",
]

#: What no context has: a place for everything is a place for nothing.
_SCRATCHPAD = "scratchpad"


class ConversationRole(StrEnum):
    """Who said something in a run."""

    ASSISTANT = "assistant"  # the pipeline
    USER = "user"  # whoever answered


class ConversationTurn(BaseModel):
    """What somebody said in a run."""

    model_config = ConfigDict(frozen=True)

    role: ConversationRole
    content: str


class HumanInteraction(BaseModel):
    """A question and its answer."""

    model_config = ConfigDict(frozen=True)

    message_to_human: str
    human_response: Any
    timestamp: datetime


class ExecutedCommandLog(BaseModel):
    """A command that an agent gave, and what came of it."""

    turn: int
    generated_command: Any
    execution_result: Any = None
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class PipelineContext(BaseModel):
    """The state that a run's steps share. Fields that are not declared may be set as well, but for a `scratchpad`.

    Those of pauses and of `step_outputs` are filled by the engine; the others are there for the code that knows them.
    """

    model_config = ConfigDict(extra="allow", validate_assignment=True)

    run_id: str = ""
    initial_prompt: str | None = None
    status: str = "running"
    pause_message: str | None = None
    paused_step_input: Any = None
    user_input: Any = None
    hitl_data: dict[str, Any] = Field(default_factory=dict)
    hitl_history: list[HumanInteraction] = Field(default_factory=list)
    command_log: list[ExecutedCommandLog] = Field(default_factory=list)
    conversation_history: list[ConversationTurn] = Field(default_factory=list)
    step_outputs: dict[str, Any] = Field(default_factory=dict)
    current_state: str | None = None
    next_state: str | None = None
    loop_iteration_index: int | None = None
    loop_step_index: int | None = None
    loop_last_output: Any = None
    loop_resume_requires_hitl_output: bool = False
    loop_paused_step_name: str | None = None
    granular_state: dict[str, Any] | None = None
    tree_search_state: Any = None
    is_background_task: bool = False
    task_id: str | None = None
    parent_run_id: str | None = None
    background_error: str | None = None
    background_error_category: str | None = None
    import_artifacts: dict[str, Any] = Field(default_factory=dict)
    call_count: int = 0
    solution: Any = None
    checklist: Any = None
    memory_store: Any = Field(None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _without_scratchpad(cls, data: Any) -> Any:
        if isinstance(data, dict) and _SCRATCHPAD in data:
            raise ValueError("a context has no 'scratchpad': declare a field for what it is to hold")
        return data

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, declared or not. Raises `ValueError` for a `scratchpad`."""
        if name == _SCRATCHPAD:
            raise ValueError("a context has no 'scratchpad': declare a field for what it is to hold")
        super().__setattr__(name, value)


class BaseContext(PipelineContext):
    """What contexts of one's own derive from."""


_C = TypeVar("_C", bound=BaseModel)


def typed_context(context: Any, model: type[_C]) -> _C:
    """A context as a model: itself if it is one, else made of its fields, of which the model need not know every one."""
    if isinstance(context, model):
        return context
    data = context.model_dump() if isinstance(context, BaseModel) else dict(context)
    known = (
        data if model.model_config.get("extra") == "allow" else {k: data[k] for k in data if k in model.model_fields}
    )
    return model.model_validate(known)
