"""Deeds: small functions that tell facts of the process that they run in, so that a test can ask it of a worker too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeVar

from flujo_client import Flujo, FlujoError, Pipeline, QuotaExceededError, step

_Deed = TypeVar("_Deed", bound=Callable[[], Any])

_DEEDS: dict[str, Callable[[], Any]] = {}


def deed(function: _Deed) -> _Deed:
    """Have a function, sync or async, done by its name."""
    assert function.__name__ not in _DEEDS, function.__name__
    _DEEDS[function.__name__] = function
    return function


def done_in(module: ModuleType) -> set[str]:
    """The names of a module's deeds."""
    return {name for name, function in _DEEDS.items() if function.__module__ == module.__name__}


async def all_done(runner: Flujo, names: Iterable[str]) -> dict[str, Any]:
    """What comes of deeds that a runner does, each in a run of its own, all at once."""
    async with runner:
        results = await asyncio.gather(*(runner.run_result_async(name) for name in names))
    return {name: result.output for name, result in zip(names, results, strict=True)}


@step(max_retries=0)
async def tell(name: str) -> Any:
    """What comes of a deed in the process that runs steps: its value, or the error and its words."""
    try:
        made = _DEEDS[name]()
        return await made if inspect.isawaitable(made) else made
    except (TypeError, ValueError, AttributeError, FlujoError, QuotaExceededError) as error:
        return f"{type(error).__name__}: {error}"


telling = Pipeline([tell], name="telling")
