"""Calls hooks: filtered by what they declare, in order, and without letting a faulty one break a run."""

from __future__ import annotations

import inspect
import logging
import os
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from flujo_client.protocol.errors import ConfigurationError, ControlFlowError, HookFailedError
from flujo_client.protocol.results import HookPayload

__all__ = ["Hook", "HookDispatcher", "strict_hooks"]

logger = logging.getLogger(__name__)

#: An async callable that takes one payload. Its annotation says which payloads it gets; none: all.
Hook = Callable[[Any], Any]


def strict_hooks() -> bool:
    """Whether FLUJO_STRICT_HOOKS=1 says that a faulty hook ends its run."""
    return os.environ.get("FLUJO_STRICT_HOOKS") == "1"


class HookDispatcher:
    """Dispatches payloads to hooks, one after the other.

    Args:
        hooks: In the order of their calls.
        strict: A faulty hook's error is raised instead of logged (FLUJO_STRICT_HOOKS=1).

    Raises:
        ConfigurationError: One of them cannot be called.
    """

    def __init__(self, hooks: Sequence[Hook] = (), *, strict: bool = False) -> None:
        for hook in hooks:
            if not callable(hook):
                raise ConfigurationError(
                    f"Hook {hook!r} cannot be called.",
                    suggestion="Give functions that take a payload: see docs/hooks.md.",
                )
        self._hooks = [(hook, _accepted(hook)) for hook in hooks]
        self._strict = strict

    def __bool__(self) -> bool:
        """Whether there is any hook to call."""
        return bool(self._hooks)

    async def dispatch(self, payload: HookPayload) -> None:
        """Call every hook that accepts the payload.

        Raises:
            ControlFlowError: A hook steers the run, such as `PipelineAbortSignal`; later hooks are not called.
            HookFailedError: A hook raised anything else, and the dispatcher is strict.
        """
        for hook, accepted in self._hooks:
            if accepted and not isinstance(payload, accepted):
                continue
            try:
                answer = hook(payload)
                if inspect.isawaitable(answer):
                    await answer
            except ControlFlowError:
                raise
            except Exception as error:
                name = getattr(hook, "__name__", repr(hook))
                if self._strict:
                    raise HookFailedError(f"Error in hook '{name}': {type(error).__name__}: {error}") from error
                logger.exception("Error in hook '%s'", name)


def _accepted(hook: Hook) -> tuple[type, ...]:
    """The payload classes that a hook's first parameter names; () for all."""
    target = hook if inspect.isroutine(hook) else type(hook).__call__
    try:
        hints = typing.get_type_hints(target)
        names = [name for name in inspect.signature(hook).parameters if name in hints]
    except (NameError, TypeError, ValueError):
        return ()
    if not names:
        return ()
    annotation = hints[names[0]]
    parts = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    classes = tuple(part for part in parts if isinstance(part, type) and part is not Any)
    return () if HookPayload in classes else classes
