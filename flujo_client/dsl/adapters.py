"""Agents of the steps that the DSL makes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SelectKey"]


@dataclass(frozen=True, slots=True)
class SelectKey:
    """Passes on one entry of a dict, or one attribute of an object."""

    key: str

    async def run(self, data: Any) -> Any:
        """Select. Raises `KeyError` if there is no such entry."""
        if isinstance(data, Mapping):
            return data[self.key]
        if not hasattr(data, self.key):
            raise KeyError(self.key)
        return getattr(data, self.key)
