"""The control step of dynamic parallel nodes: which branches the router named."""

from __future__ import annotations

from enum import Enum
from typing import Any

from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["pick_branches"]


async def pick_branches(call: ControlCall) -> ControlEnd:
    """Read the router's output. Names that no branch has are dropped.

    Raises:
        TypeError: It is neither a name nor a list of names.
    """
    named = [call.value] if isinstance(call.value, str | Enum) else call.value
    if not isinstance(named, list | tuple) or not all(isinstance(name, str | Enum) for name in named):
        raise TypeError(f"A router returns the name of a branch or a list of names, not {_shown(call.value)}")
    names = dict.fromkeys(str(name.value) if isinstance(name, Enum) else name for name in named)
    return ControlEnd(verdict={"names": [name for name in names if name in call.task.arguments["names"]]})


def _shown(value: Any) -> str:
    return f"a {type(value).__name__}"
