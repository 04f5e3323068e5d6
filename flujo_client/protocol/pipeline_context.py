"""The state that a run's steps share: the context, as steps get it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, model_validator

__all__ = [
    "STEP_OUTPUTS",
    "BaseContext",
    "ConversationRole",
    "ConversationTurn",
    "ExecutedCommandLog",
    "HumanInteraction",
    "PipelineContext",
    "lend_outputs",
    "stored_fields",
    "typed_context",
]

#: The field of contexts that has the outputs of earlier steps.
STEP_OUTPUTS: Final = "step_outputs"

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
    `step_outputs` is read from the run when somebody first asks for it: see `lend_outputs`.
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

    _fetch_outputs: Callable[[], dict[str, Any]] | None = PrivateAttr(None)
    _own_outputs: dict[str, Any] = PrivateAttr(default_factory=dict)  # entries that are stored with the context
    _lent_outputs: dict[str, Any] = PrivateAttr(default_factory=dict)  # what was fetched, as data

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

    if not TYPE_CHECKING:  # pragma: no branch - else any name would pass the type checker

        def __getattr__(self, name: str) -> Any:
            """An attribute that is not there: the outputs of earlier steps, until they are asked for."""
            if name != STEP_OUTPUTS or self._fetch_outputs is None:
                return super().__getattr__(name)
            fetched = self._fetch_outputs()
            self._lent_outputs = _AS_DATA(fetched)
            self.__dict__[STEP_OUTPUTS] = {**fetched, **self._own_outputs}
            return self.__dict__[STEP_OUTPUTS]

    def model_dump(self, **terms: Any) -> dict[str, Any]:
        """As pydantic's; what was lent is in it."""
        _ = self.step_outputs
        return super().model_dump(**terms)

    def model_dump_json(self, **terms: Any) -> str:
        """As pydantic's; what was lent is in it."""
        _ = self.step_outputs
        return super().model_dump_json(**terms)

    def __iter__(self) -> Any:
        """The fields with their values; what was lent is among them."""
        _ = self.step_outputs
        return super().__iter__()

    def __getstate__(self) -> dict[Any, Any]:
        """What is pickled: another process could not fetch anything."""
        _ = self.step_outputs
        self._fetch_outputs = None
        return super().__getstate__()


class BaseContext(PipelineContext):
    """What contexts of one's own derive from."""


_AS_DATA: Final = TypeAdapter(dict[str, Any]).dump_python


def lend_outputs(context: PipelineContext, fetch: Callable[[], dict[str, Any]]) -> None:
    """Let a context have the outputs of earlier steps: read when its `step_outputs` is first asked for, and not stored with it.

    Args:
        context: As it was built from what is stored; entries of its own that steps have set stand over what is fetched.
        fetch: Gives them, by name. May be called in any thread, or never; what it raises, the code raises that asked.
    """
    context._own_outputs = context.__dict__.pop(STEP_OUTPUTS)
    context._fetch_outputs = fetch


def stored_fields(context: BaseModel) -> dict[str, Any]:
    """The fields of a context as data, as they are to be stored: of its outputs of steps only what differs from what was lent."""
    data = BaseModel.model_dump(context)
    if not isinstance(context, PipelineContext) or context._fetch_outputs is None:
        return data
    if STEP_OUTPUTS not in data:
        return {**data, STEP_OUTPUTS: _AS_DATA(context._own_outputs)}
    own, lent = context._own_outputs, context._lent_outputs
    changed = {
        name: output
        for name, output in data[STEP_OUTPUTS].items()
        if name in own or name not in lent or lent[name] != output
    }
    return {**data, STEP_OUTPUTS: changed}


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
