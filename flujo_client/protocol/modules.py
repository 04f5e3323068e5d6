"""Modules with pipelines, imported for what they define; one that runs a pipeline on the way is told so."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from flujo_client.protocol.errors import ConfigurationError, FlujoError

__all__ = ["import_pipelines", "refuse_while_importing"]

#: The module that this context imports for its pipelines; "" for none.
_importing: ContextVar[str] = ContextVar("flujo_importing", default="")


#: Code of the error of a module that runs what it should only define: it says all by itself.
_RUNS = "runs_while_imported"

#: What a mistake in a module raises, in Python's words or ours. A library's own exception says itself what is wrong, and where.
_MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FlujoError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)

#: Where lines lie that are not the user's: Python's, installed packages', ours.
_OTHERS = (
    *sysconfig.get_paths().values(),
    *(str(Path(__file__).parents[2] / name) for name in ("flujo_client", "flujo_worker")),
)


def import_pipelines(name: str) -> ModuleType:
    """Import a module for the pipelines at its top level. Call it outside of an event loop: modules may start one.

    Raises:
        ConfigurationError: It cannot be imported, or it runs a pipeline while it is; says at which line of the user's.
        Exception: What else it raises, as it is.
    """
    mark = _importing.set(name)
    try:
        return importlib.import_module(name)
    except _MISTAKES as error:
        if isinstance(error, ConfigurationError) and error.code == _RUNS:
            raise
        absent = (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and f"{name}.".startswith(f"{error.name}.")
        )
        raise ConfigurationError(
            f"Module '{name}' cannot be imported: {_words(error)}.",
            suggestion="Correct its name (--pipelines, FLUJO_PIPELINES), or put it on PYTHONPATH."
            if absent
            else "Correct it there.",
        ) from error
    finally:
        _importing.reset(mark)


def _words(error: Exception) -> str:
    """What went wrong, and the line of the user's that led there."""
    kind = "" if isinstance(error, FlujoError | ImportError) else f"{type(error).__name__}: "
    said = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    return f"{kind}{said}".rstrip(".: ") + _place(error)


def _place(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno}: {(error.text or '').strip()})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith(_OTHERS)]
    if not own:
        return ""
    return f" ({own[-1].filename}, line {own[-1].lineno}: {(own[-1].line or '').strip()})"


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
            code=_RUNS,
        )
