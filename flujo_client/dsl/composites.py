"""What makes steps that hold pipelines, by kind: how the factories of `Step` find what is built on `Step`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["COMPOSITES", "composite"]

_C = TypeVar("_C", bound=Callable[..., Any])

#: Entered by the decorator, when the modules of the composites are imported.
COMPOSITES: dict[str, Callable[..., Any]] = {}


def composite(kind: str) -> Callable[[_C], _C]:
    """Enter a class, or a function, that a factory of `Step` calls."""

    def enter(make: _C) -> _C:
        COMPOSITES[kind] = make
        return make

    return enter
