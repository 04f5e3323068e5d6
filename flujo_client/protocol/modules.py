"""Modules with pipelines, imported for what they define; one that runs a pipeline on the way is told so."""

from __future__ import annotations

import importlib
from contextvars import ContextVar
from types import ModuleType

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["import_pipelines", "refuse_while_importing"]

#: The module that this context imports for its pipelines; "" for none.
_importing: ContextVar[str] = ContextVar("flujo_importing", default="")


def import_pipelines(name: str) -> ModuleType:
    """Import a module for the pipelines at its top level. Call it outside of an event loop: modules may start one.

    Raises:
        ConfigurationError: It cannot be imported, or it runs a pipeline while it is.
    """
    mark = _importing.set(name)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"Module '{name}' cannot be imported: {error}.",
            suggestion="Correct its name (--pipelines, FLUJO_PIPELINES), or put it on PYTHONPATH.",
        ) from error
    finally:
        _importing.reset(mark)


def refuse_while_importing() -> None:
    """Refuse to run anything in a module that is being imported for its pipelines: each of its workers would do so.

    Raises:
        ConfigurationError: That is what happens here.
    """
    name = _importing.get()
    if name:
        raise ConfigurationError(
            f"Module '{name}' runs a pipeline while it is imported, as every worker imports it.",
            suggestion='Put what runs it under `if __name__ == "__main__":`.',
        )
