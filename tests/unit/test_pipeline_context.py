"""The context's models: what they hold, what they refuse, and what they only point to."""

from __future__ import annotations

import threading
from typing import Any

import pydantic
import pytest
from pydantic import BaseModel

from flujo_client import (
    BaseContext,
    ContextIsolationError,
    ExecutedCommandLog,
    Flujo,
    PipelineContext,
    Step,
    typed_context,
)


class Notes(BaseContext):
    n: int = 0


class Strict(BaseModel):
    n: int


def test_fields_that_nobody_declared_may_be_set_but_no_scratchpad() -> None:
    context = Notes(run_id="r")
    context.word = "w"

    assert context.model_dump()["word"] == "w"
    with pytest.raises(ValueError, match="scratchpad"):
        context.scratchpad = {}
    with pytest.raises(pydantic.ValidationError, match="scratchpad"):
        Notes.model_validate({"scratchpad": {}})
    assert Notes.model_validate(context) is context


def test_the_memory_store_is_not_stored() -> None:
    assert "memory_store" not in PipelineContext(memory_store=object()).model_dump()


def test_a_command_is_logged_with_its_time() -> None:
    assert ExecutedCommandLog(turn=1, generated_command="x").timestamp.tzinfo is not None


def test_a_context_is_read_as_a_model() -> None:
    notes = Notes(n=3)

    assert typed_context(notes, Notes) is notes
    assert typed_context(notes, Strict) == Strict(n=3)
    assert typed_context({"n": 4, "word": "w"}, Notes).model_extra == {"word": "w"}


async def test_what_cannot_be_copied_has_no_place_in_a_context() -> None:
    async def work(data: Any, *, context: PipelineContext) -> Any:
        context.lock = threading.Lock()
        return data

    pipeline = Step.from_callable(work) >> Step.from_callable(work, name="again", max_retries=0)

    with pytest.raises(ContextIsolationError, match="cannot be copied"):
        await Flujo(pipeline).run_async("x")
