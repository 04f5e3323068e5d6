"""Declared types of neighbours."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Optional, TypedDict, TypeVar, Union

import pytest
import typing_extensions
from pydantic import BaseModel

from flujo_client.dsl.compatibility import compatible


class Page(BaseModel):
    title: str
    words: int


class NewRow(typing_extensions.TypedDict):
    """Of the library that older Pythons need; `typing` does not know it for one."""

    a: int


class Row(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("output", "expected", "fits"),
    [
        (int, int, True),
        (bool, int, True),
        (int, float, True),
        (str, int, False),
        (int | None, int, True),
        (str, int | None, False),
        (list[int], list[str], False),
        (list[int], list[Any], True),
        (dict, Page, True),
        (Row, dict, True),
        (Any, int, True),
        (str, object, True),
        (Page, str, False),
    ],
)
def test_declared_types_of_neighbours(output: Any, expected: Any, fits: bool) -> None:
    assert compatible(output, expected) is fits


@pytest.mark.parametrize(
    ("output", "expected", "fits"),
    [
        (Annotated[int, "unit"], int, True),
        (Annotated[int, "unit"], str, False),
        (Union[int, str], str, True),  # noqa: UP007 - the older spelling
        (Optional[str], int, False),  # noqa: UP045
        (None, type(None), True),
        (None, int, False),
        ("Page", int, True),  # a name that only its module knows: the worker checks the value
        (inspect.Parameter.empty, int, True),
        (TypeVar("T"), int, True),
        (dict[str, int], dict[str, str], False),
        (list, list[int], True),
        (tuple[int, str], tuple[int, int], False),
        (Page, Row, True),
        (list[Page], list[dict[str, int]], True),
        (dict[str, list[NewRow]], dict[str, list[NewRow]], True),
        (NewRow, Page, True),
        (NewRow, int, False),
    ],
    ids=str,
)
def test_declared_types_of_every_spelling(output: Any, expected: Any, fits: bool) -> None:
    assert compatible(output, expected) is fits
