"""What a step's function is called, what it takes, and what it asks for."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flujo_client.protocol.agent_results import FlujoAgentResult
from flujo_client.protocol.attachments import AppResources
from flujo_client.protocol.errors import ConfigurationError, MissingAgentError

__all__ = [
    "ControlFunction",
    "Signature",
    "check_injection",
    "inspect_callable",
    "is_model_agent",
    "lives_in_script",
    "reference_of",
    "result_of",
    "takes",
    "unqueueable_reason",
]

#: What a step function gets by keyword if it names it; and also if it takes any keyword, which `run` is not part of.
_INJECTABLE = frozenset({"context", "resources", "run", "temperature", "top_k", "top_p"})
_OPEN_ENDED = _INJECTABLE - {"run"}


@dataclass(frozen=True, slots=True)
class Signature:
    """A step function, as the engine calls it.

    Attributes:
        call: Takes the input, then what is injected by keyword.
        injects: Which of the injectable names it asks for.
        stream: An async generator function that does the same, chunk by chunk.
        only_streams: There is nothing but the generator.
    """

    call: Callable[..., Any]
    is_async: bool
    injects: frozenset[str]
    input_type: Any
    output_type: Any
    context_type: Any
    stream: Callable[..., Any] | None = None
    only_streams: bool = False


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
    if is_model_agent(agent):
        return _model_agent_signature(agent)
    call, stream = _entry_points(agent)
    if not callable(call):
        raise ConfigurationError(
            f"The agent of step '{step}' is a {type(agent).__name__}, which cannot be called.",
            suggestion="Give it a function, or an object with run().",
        )
    parameters = _parameters_of(call, step)
    takes = [parameter.name for parameter in parameters.values() if parameter.kind in _POSITIONAL]
    if not takes and not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values()):
        raise ConfigurationError(
            f"The function of step '{step}' takes no input.",
            suggestion="Its first parameter is the output of the step before.",
        )
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints, ruled = _hints(call), _hints(call, include_extras=True)  # a rule of the user's is an annotation
    named = parameters.keys() - set(takes[:1])
    function = call if inspect.isroutine(call) or isinstance(call, functools.partial) else type(call).__call__
    return Signature(
        call=call,
        is_async=inspect.iscoroutinefunction(inspect.unwrap(function)) or stream is call,
        injects=frozenset(_INJECTABLE & named | (_OPEN_ENDED if open_ended else set())),
        input_type=ruled.get(takes[0], Any) if takes else Any,
        output_type=_yielded(ruled.get("return", Any)) if stream is call else _answered(ruled.get("return", Any)),
        context_type=hints.get("context", Any),
        stream=stream,
        only_streams=stream is call,
    )


def _entry_points(agent: Any) -> tuple[Any, Callable[..., Any] | None]:
    """What is called, and the async generator function that does the same chunk by chunk: both may be one."""
    if inspect.isroutine(agent):
        return agent, agent if inspect.isasyncgenfunction(agent) else None
    stream = getattr(agent, "stream", None)
    stream = stream if inspect.isasyncgenfunction(stream) else None
    call = getattr(agent, "run", stream or agent)
    return call, call if inspect.isasyncgenfunction(call) else stream


def _yielded(annotation: Any) -> Any:
    """What the chunks of an annotated generator are joined to: text and bytes; the rest becomes the text of a list."""
    chunk = (typing.get_args(annotation) or (Any,))[0]
    return chunk if chunk in (str, bytes) else Any


def _answered(annotation: Any) -> Any:
    """What a step goes on with: an agent's result is taken apart, and what is in it nobody declares."""
    return Any if annotation is FlujoAgentResult else annotation


def check_injection(agent: Any, step: str) -> None:
    """Check what an agent's keyword-only parameters declare.

    Raises:
        ConfigurationError: `context` is no pydantic model, or `resources` no `AppResources`.
    """
    call, _ = _entry_points(agent)
    hints = _hints(call)
    for parameter in _parameters_of(call, step).values():
        expected = _DECLARED_AS.get(parameter.name)
        if parameter.kind is not parameter.KEYWORD_ONLY or expected is None:
            continue
        if parameter.annotation is not parameter.empty and parameter.name not in hints:
            continue  # only the user's local scope knows what it means
        if not any(isinstance(one, type) and issubclass(one, expected) for one in _alternatives(hints, parameter.name)):
            raise ConfigurationError(
                f"The '{parameter.name}' parameter of step '{step}' must be annotated with a class of "
                f"{expected.__name__}.",
                suggestion=f"Write *, {parameter.name}: YourModel, where YourModel derives from {expected.__name__}.",
            )


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_DECLARED_AS: dict[str, type] = {"context": BaseModel, "resources": AppResources}


def _parameters_of(call: Callable[..., Any], step: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except ValueError as error:
        raise ConfigurationError(
            f"The function of step '{step}' does not say what it takes: {error}.",
            suggestion="Wrap it in a function of your own.",
        ) from error


def _alternatives(hints: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """The classes that an annotation allows: of `Notes | None`, both."""
    annotation = hints.get(name)
    return typing.get_args(annotation) or (annotation,)


def is_model_agent(agent: Any) -> bool:
    """Whether an agent is one of pydantic-ai, which need not be installed."""
    return any(
        cls.__name__ == "AbstractAgent" and cls.__module__.partition(".")[0] == "pydantic_ai"
        for cls in type(agent).__mro__
    )


def _model_agent_signature(agent: Any) -> Signature:
    """A pydantic-ai agent: takes a prompt, or what becomes one; its model is metered."""
    model_agents = importlib.import_module("flujo_client.metering.model_agents")  # needs the extra, as the agent did
    settings = frozenset({"resources", "temperature", "top_k", "top_p"})
    return Signature(model_agents.ModelAgentCall(agent), True, settings, Any, model_agents.output_type(agent), Any)


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


def takes(call: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of a name."""
    try:
        return name in inspect.signature(call).parameters
    except ValueError:  # builtins that do not say what they take
        return False


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _hints(call: Any, *, include_extras: bool = False) -> dict[str, Any]:
    target = call if inspect.isroutine(call) else type(call).__call__
    try:
        return typing.get_type_hints(target, include_extras=include_extras)
    except (NameError, TypeError):  # annotations that only the user's local scope knows
        return {}


def result_of(call: Callable[..., Any]) -> Any:
    """The annotation of what a function returns; Any if it has none."""
    return _hints(call).get("return", Any)


def reference_of(agent: Any, step: str, *, attached: bool = False) -> str:
    """The name by which a spec refers to an agent.

    `module:qualname` for functions, `module:Class#step` for objects and for functions of steps with attachments, named
    agents as they are named; all are the same in every process that imports the module. What has no such name gets one
    that is valid in this process only, with an `@`.

    Args:
        attached: The step has plugins, processors and the like: another step may use the same function without them.
    """
    if isinstance(agent, str | Mapping):
        named = agent if isinstance(agent, str) else agent.get("id") or agent.get("path")
        return f"{named}#{step}"
    target = _named(agent)
    module, qualname = _module_name(target.__module__), target.__qualname__
    plain = not attached and target is agent and getattr(agent, "__self__", None) is None
    name = f"{module}:{qualname}" if plain else f"{module}:{qualname}#{step}"
    return f"{name}@{id(agent):x}" if unqueueable_reason(agent) else name


def unqueueable_reason(agent: Any) -> str | None:
    """Why a worker could not find an agent; None if it can."""
    if isinstance(agent, str | Mapping):
        return None
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


def lives_in_script(agent: Any) -> bool:
    """Whether an agent is defined in the script that is running, which no worker has under that name."""
    return not isinstance(agent, str | Mapping | functools.partial) and _named(agent).__module__ == "__main__"


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
