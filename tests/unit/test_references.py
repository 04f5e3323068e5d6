"""References in contexts: only the pointer travels, the value is loaded and saved around each step."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import ConfigurationError, ContextFieldError, ContextReference, Flujo, PipelineContext, Step, step


class Library(PipelineContext):
    book: ContextReference = ContextReference(provider_id="shelf", key="b1")


class Shelf:
    def __init__(self) -> None:
        self.books: dict[str, Any] = {"b1": "old text"}
        self.saves: list[str] = []

    async def load(self, key: str) -> Any:
        return self.books[key]

    async def save(self, key: str, value: Any) -> None:
        self.saves.append(key)
        self.books[key] = value


@step
async def read(word: str, *, context: Library) -> str:
    return f"{context.book.get()} {word}"


@step
async def rewrite(text: str, *, context: Library) -> str:
    context.book.set(text.upper())
    return text


@step
async def look(text: str, *, context: Library) -> str:
    found: str = context.book.get()
    return found


def test_a_value_is_loaded_before_a_step_and_saved_after_it_if_it_was_set() -> None:
    shelf = Shelf()

    result = Flujo(read >> rewrite >> look, context_model=Library, state_providers={"shelf": shelf}).run("here")

    assert result.output == "OLD TEXT HERE"
    assert shelf.saves == ["b1"]
    assert result.final_pipeline_context.book.model_dump() == {"provider_id": "shelf", "key": "b1"}
    with pytest.raises(ContextFieldError):
        result.final_pipeline_context.book.get()


def test_a_step_that_fails_saves_nothing() -> None:
    async def spoil(text: str, *, context: Library) -> str:
        context.book.set("spoilt")
        raise ValueError("no")

    shelf = Shelf()
    Flujo(Step.from_callable(spoil), context_model=Library, state_providers={"shelf": shelf}).run("x")

    assert shelf.books == {"b1": "old text"}


def test_a_provider_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match="provider 'shelf'; here there are: none"):
        Flujo(read, context_model=Library).run("x")
