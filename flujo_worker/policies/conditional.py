"""Control steps of conditionals: the choice of a branch, and the mapping of its output."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["choose_branch", "map_output"]


async def choose_branch(call: ControlCall) -> ControlEnd:
    """Ask the condition which branch runs, and map its input.

    Raises:
        NonRetryableError: No branch has that key, and there is no default.
    """
    arguments = call.task.arguments
    key = await call.call("condition", call.value, call.context)
    key = key.value if isinstance(key, Enum) else key
    branch = _find(key, arguments["keys"])
    if branch is None and arguments["default"]:
        branch = len(arguments["keys"])
    if branch is None:
        raise NonRetryableError(f"No branch found for key '{key}' and no default branch provided")
    shown = key if isinstance(key, str | int | float | bool) else str(key)
    verdict = {"branch": branch, "key": shown}
    if "input_mapper" in call.functions:
        return ControlEnd((await call.call("input_mapper", call.value, call.context),), verdict)
    return ControlEnd(verdict=verdict)


async def map_output(call: ControlCall) -> ControlEnd:
    """Map the branch's output."""
    return ControlEnd((await call.call("output_mapper", call.value, call.task.arguments["key"], call.context),))


def _find(key: Any, keys: Sequence[Any]) -> int | None:
    for index, candidate in enumerate(keys):
        if candidate == key and isinstance(candidate, bool) == isinstance(key, bool):
            return index
    words = str(key).lower()
    for index, candidate in enumerate(keys):
        if (isinstance(candidate, bool) or isinstance(key, bool)) and str(candidate).lower() == words:
            return index
    return None
