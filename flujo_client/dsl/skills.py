"""Agents by name: from a registry of skills, or by import path; as a string, or as a dict with parameters."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["SkillRegistry", "get_skill_registry", "resolve_agent"]


class SkillRegistry:
    """Agents, and functions that make agents, by id. Fill it in a module that workers import."""

    def __init__(self) -> None:
        self._skills: dict[str, Any] = {}

    def register(self, skill_id: str, agent: Any) -> None:
        """Give an agent, a class of agents, or a function that makes one a name; a later one takes its place."""
        self._skills[skill_id] = agent

    def get(self, skill_id: str) -> Any:
        """What was registered under an id; None if nothing was."""
        return self._skills.get(skill_id)


_SKILLS: Final = SkillRegistry()


def get_skill_registry() -> SkillRegistry:
    """The registry that steps look their agents up in."""
    return _SKILLS


def resolve_agent(agent: Any, step: str) -> Any:
    """The agent that a step names.

    Args:
        agent: `"skill"`, `"module:attribute"`, or a dict: `id` (or `path`) and `params`, with which the skill is called to
            make the agent. Anything else is an agent already.

    Raises:
        ConfigurationError: There is no such skill, module or attribute.
    """
    if isinstance(agent, str):
        return _made(_find(agent, step), None)
    if not isinstance(agent, Mapping):
        return agent
    name = agent.get("id") or agent.get("path")
    if not isinstance(name, str):
        raise ConfigurationError(
            f"The agent of step '{step}' is a dict without a name.", suggestion='Give it an "id", or a "path".'
        )
    return _made(_find(name, step), agent.get("params"))


def _find(name: str, step: str) -> Any:
    skill = _SKILLS.get(name)
    if skill is not None:
        return skill
    module, colon, attribute = name.partition(":")
    try:
        found = importlib.import_module(module) if colon else None
        for part in attribute.split(".") if colon else ():
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"The agent '{name}' of step '{step}' cannot be imported: {error}.",
            suggestion="Name it as module:attribute, in a module that workers have.",
        ) from error
    if found is None:
        raise ConfigurationError(
            f"The agent '{name}' of step '{step}' is no registered skill.",
            suggestion="Register it with get_skill_registry().register(...), or name it as module:attribute.",
        )
    return found


def _made(found: Any, params: Mapping[str, Any] | None) -> Any:
    """An agent from what was found: called with parameters where there are any; a class is always called."""
    if params is not None or inspect.isclass(found):
        made: Callable[..., Any] = found
        return made(**(params or {}))
    return found
