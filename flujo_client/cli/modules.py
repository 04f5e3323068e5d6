"""Modules that a command line names: looked at before processes are started that import them, and their pipelines."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.errors import ConfigurationError

__all__ = ["pipelines_of", "require_modules"]


def require_modules(names: str) -> None:
    """Make sure that modules exist and are Python, without running them.

    Args:
        names: Module names, comma separated.

    Raises:
        ConfigurationError: A module is nowhere, or has a syntax error: says in which file and line.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    for module in filter(None, (part.strip() for part in names.split(","))):
        try:
            found = find_spec(module)
        except (ImportError, ValueError):  # its package is missing, or it is no name of a module
            found = None
        if found is None:
            raise ConfigurationError(
                f"There is no module '{module}'.",
                suggestion="Correct --pipelines or FLUJO_PIPELINES, or put the module on PYTHONPATH.",
            )
        _require_python(module, found)


def _require_python(module: str, found: ModuleSpec) -> None:
    if not isinstance(found.loader, InspectLoader):
        return
    try:
        found.loader.get_code(module)
    except SyntaxError as error:
        raise ConfigurationError(
            f"Module '{module}' is no Python: {error.msg}, {error.filename}, line {error.lineno}.",
            suggestion="Correct it there.",
        ) from error


def pipelines_of(module: str) -> dict[str, Pipeline]:
    """The pipelines at a module's top level, each once, by variable.

    Raises:
        ConfigurationError: It cannot be imported, or has none.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"Module '{module}' cannot be imported: {error}.", suggestion="Is it on PYTHONPATH?"
        ) from error
    found: dict[str, Pipeline] = {}
    for name, value in vars(imported).items():
        if isinstance(value, Pipeline) and not any(value is known for known in found.values()):
            found[name] = value
    if not found:
        raise ConfigurationError(f"Module '{module}' has no pipeline at its top level.")
    return found
