"""Modules that a command line names, looked at before processes are started that import them."""

from __future__ import annotations

import sys
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["require_modules"]


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
