"""What a step's function is called, what it takes, and what it asks for."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flujo_client.protocol.errors import ConfigurationError, MissingAgentError

__all__ = ["ControlFunction", "Signature", "inspect_callable", "reference_of", "unqueueable_reason"]

#: What a step function may ask for by keyword.
_INJECTABLE = frozenset({"context", "resources", "run"})


@dataclass(frozen=True, slots=True)
class Signature:
    """A step function, as the engine calls it.

    Attributes:
        call: Takes the input, then what is injected by keyword.
        injects: Which of `context`, `resources` and `run` it asks for.
    """

    call: Callable[..., Any]
    is_async: bool
    injects: frozenset[str]
    input_type: Any
    output_type: Any
    context_type: Any


def inspect_callable(agent: Any, step: str) -> Signature:
    """Analyse a step's agent: a function, or an object with `run`.

    Raises:
        MissingAgentError: There is none.
        ConfigurationError: It cannot be called with an input.
    """
    if agent is None:
        raise MissingAgentError(
            f"Step '{step}' has no agent.", suggestion="Give it a function, or an object with run()."
        )
    call = agent.run if hasattr(agent, "run") and not inspect.isroutine(agent) else agent
    if not callable(call):
        raise ConfigurationError(f"The agent of step '{step}' is a {type(agent).__name__}, which cannot be called.")
    try:
        signature = inspect.signature(call)
    except ValueError as error:
        raise ConfigurationError(
            f"The function of step '{step}' does not say what it takes: {error}.",
            suggestion="Wrap it in a function of your own.",
        ) from error
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    names = [parameter.name for parameter in parameters]
    if not names or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ConfigurationError(
            f"The function of step '{step}' takes no input.",
            suggestion="Its first parameter is the output of the step before.",
        )
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    hints = _hints(call)
    injects = _INJECTABLE.intersection(names[1:]) | ({"context"} if open_ended else set())
    function = call if inspect.isroutine(call) or isinstance(call, functools.partial) else type(call).__call__
    return Signature(
        call=call,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function)),
        injects=frozenset(injects),
        input_type=hints.get(names[0], Any),
        output_type=hints.get("return", Any),
        context_type=hints.get("context", Any),
    )


@dataclass(frozen=True, slots=True)
class ControlFunction:
    """A function of a composite; see `ControlDefinition`."""

    call: Callable[..., Any]
    input_type: Any
    context_type: Any
    takes: int

    @classmethod
    def of(cls, function: Callable[..., Any]) -> ControlFunction:
        """Analyse a function: its first parameter is a value, and one of the others may be annotated as the context."""
        hints, names = _hints(function), _parameters(function)
        declared = [hints.get(name, Any) for name in names]
        return cls(function, next(iter(declared), Any), next(filter(_is_model, declared[1:]), Any), len(names))


def _parameters(call: Callable[..., Any]) -> list[str]:
    """The parameters that may be given by position."""
    try:
        parameters = inspect.signature(call).parameters.values()
    except ValueError:  # builtins that do not say what they take
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _hints(call: Any) -> dict[str, Any]:
    target = call if inspect.isroutine(call) else type(call).__call__
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):  # annotations that only the user's local scope knows
        return {}


def reference_of(agent: Any, step: str) -> str:
    """The name by which a spec refers to an agent.

    `module:qualname` for functions, `module:Class#step` for objects; both are the same in every process that imports the
    module. What has no such name gets one that is valid in this process only, with an `@`.
    """
    target = _named(agent)
    module, qualname = _module_name(target.__module__), target.__qualname__
    plain = target is agent and getattr(agent, "__self__", None) is None
    name = f"{module}:{qualname}" if plain else f"{module}:{qualname}#{step}"
    return f"{name}@{id(agent):x}" if unqueueable_reason(agent) else name


def unqueueable_reason(agent: Any) -> str | None:
    """Why a worker could not find an agent; None if it can."""
    if isinstance(agent, functools.partial):
        return "a partial has no name: write a function"
    target = _named(agent)
    if "<lambda>" in target.__qualname__:
        return "a lambda has no name: write a function at the top level of a module"
    if "<locals>" in target.__qualname__:
        return "it is defined inside a function: move it to the top level of a module"
    if target.__module__ == "__main__" and _main_file() is None:
        return "it lives in an interactive session: put it into a module"
    return None


def _named(agent: Any) -> Any:
    """What has a name of its own: a function or a class itself, an object's class."""
    return agent if inspect.isroutine(agent) or inspect.isclass(agent) else type(agent)


def _main_file() -> str | None:
    return getattr(sys.modules["__main__"], "__file__", None)


def _module_name(module: str) -> str:
    """A script's functions are those of the module that a worker imports under the file's name."""
    if module != "__main__":
        return module
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = _main_file()
    return Path(file).stem if file else module
