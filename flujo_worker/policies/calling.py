"""Calls what users attached to a step, sync or async, with as many of the arguments as it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flujo_worker.attempt import Attempt
from flujo_worker.bodies import SyncBodies

__all__ = ["UserCalls"]


class UserCalls:
    """Calls users' functions.

    Args:
        bodies: Runs sync functions.
        live: The in-process mode: sync functions run on the loop.
    """

    def __init__(self, bodies: SyncBodies, *, live: bool) -> None:
        self._bodies = bodies
        self._live = live

    async def call(self, attempt: Attempt, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function; of the named arguments it gets those that it takes."""
        taken = {name: value for name, value in named.items() if _takes(function, name)}
        positional = arguments[: _most_positional(function)]
        if self._live or inspect.iscoroutinefunction(inspect.unwrap(_routine(function))):
            answer = function(*positional, **taken)
        else:
            answer = await self._bodies.run(attempt, function, *positional, **taken)
        return await answer if inspect.isawaitable(answer) else answer


def _routine(function: Callable[..., Any]) -> Any:
    return function if inspect.isroutine(function) else type(function).__call__


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # builtins that do not say what they take
        return None


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = _parameters(function)
    return parameters is None or any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def _most_positional(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a function takes; None for any number."""
    parameters = _parameters(function)
    if parameters is None or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
