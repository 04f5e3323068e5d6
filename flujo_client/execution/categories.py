"""In which category the failure of a background step falls, by the name of its error's class. Pure."""

from __future__ import annotations

from typing import Final

import flujo_client.protocol.errors as errors
from flujo_client.protocol.errors import (
    ConfigurationError,
    ContextError,
    ControlFlowError,
    FlujoError,
    UsageLimitExceededError,
    ValidationError,
)

__all__ = ["error_category"]

#: Of our own errors; the first class that an error belongs to.
_OF_OURS: Final[tuple[tuple[type[FlujoError], str], ...]] = (
    (ControlFlowError, "control_flow"),
    (UsageLimitExceededError, "resource_exhaustion"),
    (ConfigurationError, "configuration"),
    (ValidationError, "validation"),
    (ContextError, "validation"),
)

#: Of others; the first word that stands in the class's name.
_BY_WORD: Final = (
    (("auth", "permission", "forbidden", "credential"), "authentication"),
    (("ratelimit", "quota", "memory", "exhausted"), "resource_exhaustion"),
    (("connect", "timeout", "network", "dns", "socket", "http", "ssl", "gaierror"), "network"),
    (("validation", "valueerror", "typeerror"), "validation"),
    (("config", "settings", "import", "modulenotfound"), "configuration"),
)


def error_category(name: str) -> str:
    """The category of an error.

    Args:
        name: Of its class, as its envelope has it.

    Returns:
        `network`, `validation`, `control_flow`, `authentication`, `resource_exhaustion`, `configuration`, or, of all others,
        `system`.
    """
    own = getattr(errors, name, None)
    if isinstance(own, type) and issubclass(own, FlujoError):
        return next((category for cls, category in _OF_OURS if issubclass(own, cls)), "system")
    lower = name.lower()
    return next((category for words, category in _BY_WORD if any(word in lower for word in words)), "system")
