"""The in-memory store with what a manager reads besides its scripts."""

from __future__ import annotations

from typing import Any

from flujo_worker.memory_store import MemoryStore

__all__ = ["SimulatedStore"]

#: Shared keys that hold nothing when nothing runs.
_EMPTY_WHEN_QUIET = ("dispatches", "published", "dirty", "active", "owned:pool")


class SimulatedStore(MemoryStore):
    """More commands."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        more: dict[bytes, Any] = {
            b"LPOP": self._lpop,
            b"LLEN": self._length,
            b"SCARD": self._length,
            b"ZCARD": self._length,
            b"HLEN": self._length,
            b"SRANDMEMBER": lambda key, count: list(self._values.get(key, ()))[: int(count)],
            b"ZADD": self._zadd_xx,
            b"ZRANGE": lambda key, *_: self._zrange(key, b"0", b"-1"),  # pages are larger than anything here
            b"SMEMBERS": lambda key: list(self._values.get(key, ())),
        }
        self._commands = self._commands | more

    def _zadd_xx(self, key: bytes, *words: bytes) -> Any:
        if words[0] != b"XX":
            return self._zadd(key, *words)
        known: Any = self._values.get(key, {})
        pairs = zip(words[1::2], words[2::2], strict=True)
        kept = [word for score, member in pairs if member in known for word in (score, member)]
        return self._zadd(key, *kept) if kept else 0

    def _length(self, key: bytes) -> int:
        value: Any = self._values.get(key, ())
        return len(getattr(value, "ids", value))

    def _lpop(self, key: bytes, count: bytes) -> Any:
        values: Any = self._values.get(key)
        if not values:
            return None
        popped = [values.pop() for _ in range(min(int(count), len(values)))]
        if not values:
            del self._values[key]
        return popped

    def left_over(self) -> list[str]:
        """What should be empty and is not (I7)."""
        told = []
        for key, value in self._values.items():
            name = key.decode().partition("}:")[2]
            if (name in _EMPTY_WHEN_QUIET or name.startswith("held:")) and len(value):
                told.append(f"I7 {name} holds {len(value)}")
            if name.startswith("run:") and key not in self._deadlines_ms:
                told.append(f"I7 {name} would stay for ever")
        return told
