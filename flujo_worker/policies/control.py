"""Control steps: a composite's own functions, run on a worker since managers never import user code."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flujo_client.protocol.context import ContextData
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.messages import TaskRecord
from flujo_client.protocol.types import ControlDefinition
from flujo_worker.policies.store import ControlStore

__all__ = ["ControlCall", "ControlEnd"]


class ModelOf(Protocol):
    """See `ControlCall.model_of`."""

    def __call__(self, data: ContextData, branch: str | None = None) -> Any:
        """The model."""


@dataclass(frozen=True, slots=True)
class ControlCall:
    """What a control step works on.

    Attributes:
        value: Its input.
        context: The model of the enclosing scope's context; what a function changes in it is committed.
        base: The context as data, as the branches got it.
        branches: What branches made of it, by name.
        model_of: Makes the context's model of data, as a branch of that name sees it. Raises `ContextError` if it does not fit.
        outputs_of: Makes what fetches the outputs of earlier steps, as a branch of that name sees them at its end.
        beside: Gives what the manager sent besides the input, by name.
        typed: Makes what a step's function reference returned, and was stored as JSON, what the step declares again.
        store: For what it stores beside its output.
        resources: Of the worker.
        run_id: Of the run.
        functions: The user's, by role.
        calling: Told of each function that is called, by its role.
        in_thread: Calls a sync function in a thread.
        live: The in-process mode: sync functions run on the loop.
    """

    task: TaskRecord
    value: Any
    context: Any
    base: ContextData
    branches: Mapping[str, ContextData]
    functions: Mapping[str, ControlDefinition]
    calling: Callable[[str], None]
    in_thread: Callable[..., Awaitable[Any]]
    live: bool
    model_of: ModelOf
    beside: Callable[[], dict[str, Any]]
    outputs_of: Callable[[str | None], Callable[[], dict[str, Any]]]
    typed: Callable[[str, Any], Any]
    store: ControlStore
    resources: Any
    run_id: str

    async def call(self, role: str, *arguments: Any) -> Any:
        """Call the function of a role; a sync one in a thread, so that it blocks no step."""
        self.calling(role)
        failpoint("before", "control")
        function = self.functions[role].call
        if self.live or inspect.iscoroutinefunction(function):
            answer = function(*arguments)
        else:
            answer = await self.in_thread(function, *arguments)
        answer = await answer if inspect.isawaitable(answer) else answer
        failpoint("after", "control")
        return answer


@dataclass(frozen=True, slots=True)
class ControlEnd:
    """What a control step commits.

    Attributes:
        outputs: Its output, if it has one.
        verdict: What `advance()` reads: JSON values.
        context: A whole new context of the enclosing scope, instead of what changed in the model.
        question: Set if it asks a human instead of succeeding.
    """

    outputs: tuple[Any, ...] = ()
    verdict: dict[str, Any] = field(default_factory=dict)
    context: ContextData | None = None
    question: str | None = None
