"""What agents and the keys of branches are to type checkers."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

__all__ = ["AsyncAgentProtocol", "BranchKey"]

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)

#: What a condition may return: the key of the branch that runs.
BranchKey = str | int | float | bool


@runtime_checkable
class AsyncAgentProtocol(Protocol[In, Out]):
    """An object that can be a step's agent. It may also ask for `context`, `resources`, `run` and its model's settings by name."""

    async def run(self, data: In, **kwargs: Any) -> Out:
        """Turn the step's input into its output."""
