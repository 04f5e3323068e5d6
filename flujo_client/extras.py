"""Names that need packages which not everybody has: an extra of the distribution."""

from __future__ import annotations

import importlib
from typing import Any, NoReturn

from flujo_client.protocol.errors import ConfigurationError

__all__ = ["optional"]


def optional(module: str, name: str, extra: str) -> Any:
    """What a module calls so; without its extra a class of that name, which anybody may import and nobody can call.

    Args:
        module: That imports what the extra brings.
        name: In the module.
        extra: As pip knows it.

    Returns:
        The object. The class in its place raises `ConfigurationError`, which names the extra, when it is called.
    """
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        return _stand_in(name, extra, error)
    return getattr(found, name)


def _stand_in(name: str, extra: str, missing: ImportError) -> type:
    def refuse(cls: type, *args: Any, **options: Any) -> NoReturn:
        raise ConfigurationError(
            f"{name} needs packages that are not installed: {missing}.",
            suggestion=f"pip install 'flujo-distributed[{extra}]'.",
        ) from missing

    return type(name, (), {"__new__": refuse, "__doc__": f"Needs the extra `{extra}`."})
