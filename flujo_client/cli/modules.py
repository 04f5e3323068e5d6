"""Modules that a command line names: looked at before processes are started that import them, and imported."""

from __future__ import annotations

import sys
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.modules import import_pipelines
from flujo_client.protocol.told import meant

__all__ = ["pipeline_of", "pipelines_of", "require_modules"]


def pipelines_of(module: str) -> dict[str, Pipeline]:
    """The pipelines at the top level of a module, by the names that they have there.

    Raises:
        ConfigurationError: As `import_pipelines`; or there is none.
    """
    _look_here()
    imported = import_pipelines(module)
    found: dict[str, Pipeline] = {}
    for name, value in vars(imported).items():
        if isinstance(value, Pipeline) and not any(value is known for known in found.values()):
            found[name] = value
    if not found:
        raise ConfigurationError(f"Module '{module}' has no pipeline at its top level.")
    return found


def pipeline_of(target: str) -> Pipeline:
    """The pipeline that MODULE or MODULE:PIPELINE names.

    Raises:
        ConfigurationError: As `pipelines_of`; or it names none, or several.
    """
    module, _, name = target.partition(":")
    found = pipelines_of(module)
    chosen = [value for key, value in found.items() if name in (key, value.name) or not name]
    if not chosen:
        near = meant(name, found)
        raise ConfigurationError(
            f"Module '{module}' has no pipeline '{name}'{near}.", suggestion=f"Say {module}:{next(iter(found))}."
        )
    if len(chosen) > 1:
        raise ConfigurationError(
            f"Module '{module}' has {len(chosen)} pipelines{f' of the name {name}' if name else ''}: {', '.join(found)}.",
            suggestion=f"Say which as MODULE:PIPELINE: {module}:{next(iter(found))}.",
        )
    return chosen[0]


def _look_here() -> None:
    """Find modules of the folder that the command is given in."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def require_modules(names: str) -> None:
    """Make sure that modules exist and are Python, without running them.

    Args:
        names: Module names, comma separated.

    Raises:
        ConfigurationError: A module is nowhere, or has a syntax error: says in which file and line.
    """
    _look_here()
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
