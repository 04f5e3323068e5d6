"""`ContextReference`: a pointer in a context to a value that lives elsewhere; only the pointer is committed."""

from __future__ import annotations

from typing import Any, Protocol

from pydantic import BaseModel, PrivateAttr

from flujo_client.protocol.errors import ContextFieldError

__all__ = ["ContextReference", "StateProvider"]


class StateProvider(Protocol):
    """Loads and saves what references point to. Workers take `flujo_state_providers` of the pipelines' modules."""

    async def load(self, key: str) -> Any:
        """The value of a key."""

    async def save(self, key: str, value: Any) -> None:
        """Keep a value; at least once for each step that set it."""


class ContextReference(BaseModel):
    """A pointer to a value: loaded before a step that has the context, saved after it if the step set it.

    Attributes:
        provider_id: Which of the providers has it.
        key: Of the value there.
    """

    provider_id: str
    key: str
    _value: Any = PrivateAttr(None)
    _loaded: bool = PrivateAttr(False)
    _changed: bool = PrivateAttr(False)

    def get(self) -> Any:
        """The value. Raises `ContextFieldError` outside of a step, where nothing was loaded."""
        if not self._loaded:
            raise ContextFieldError(
                f"The reference to '{self.key}' of '{self.provider_id}' is loaded in steps only.",
                suggestion="Ask its provider.",
            )
        return self._value

    def set(self, value: Any) -> None:
        """Set the value; it is saved when the step has succeeded."""
        self._value, self._loaded, self._changed = value, True, True

    async def load(self, provider: StateProvider) -> None:
        """Fetch the value."""
        self._value, self._loaded, self._changed = await provider.load(self.key), True, False

    async def save(self, provider: StateProvider) -> None:
        """Keep the value, if it was set."""
        if self._changed:
            await provider.save(self.key, self._value)
            self._changed = False
