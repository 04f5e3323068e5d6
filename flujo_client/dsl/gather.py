"""`Step.gather`: picks keys of a dict, such as the outputs of some branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Gather"]


@dataclass(frozen=True)
class Gather:
    """Picks keys. An object of a class at the top of a module, so that workers find it by name."""

    keys: tuple[str, ...]

    async def run(self, data: Any) -> dict[str, Any]:
        """The keys with their values.

        Raises:
            TypeError: The input is no dict.
            KeyError: It lacks keys.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"gather takes a dict, not a {type(data).__name__}")
        missing = [key for key in self.keys if key not in data]
        if missing:
            raise KeyError(", ".join(missing))
        return {key: data[key] for key in self.keys}
