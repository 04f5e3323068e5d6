"""What a control step may store beside its output, while it holds its lease."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.scripts import Scripts
from flujo_worker.attempt import Attempt

__all__ = ["ControlStore", "Lookup"]

#: What one script call stores at the most; Redis serves nobody else meanwhile.
_MOST_PAYLOADS, _MOST_BYTES = 500, 1_000_000


@dataclass(frozen=True, slots=True)
class Lookup:
    """What a cache answered: a result, or how long somebody else may still make it; with neither, it is ours to make."""

    found: bool
    value: Any = None
    context: dict[str, Any] | None = None
    wait_ms: int = 0


class ControlStore:
    """The store as one control step sees it.

    Args:
        scripts: On a connection of the coordinator's loop.
        codec: Of the payloads.
        attempt: Of the control step.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, attempt: Attempt) -> None:
        self._scripts = scripts
        self._codec = codec
        self._attempt = attempt

    @property
    def path(self) -> str:
        """Of the control step."""
        return self._attempt.claim.path

    async def stash(self, values: Sequence[Any], kind: str = "out") -> None:
        """Store values as payloads `<kind>:<path>.<number>` of their own, in slices.

        Raises:
            PayloadError: A value cannot be stored.
            NonRetryableError: The lease is lost; what was stored is written over by whoever has it.
        """
        claim = self._attempt.claim
        for first, payloads in _slices([self._codec.encode(value) for value in values]):
            if not await self._scripts.stash(claim, f"{kind}:{claim.path}", first, payloads):
                raise NonRetryableError(f"The lease of run {claim.run_id} step {claim.path} is lost.")

    async def look_up(self, key: str, lease_ms: int) -> Lookup:
        """Read the shared cache, or take the right to make what it lacks."""
        found = await self._scripts.cache_look(key, self._lease, lease_ms)
        if isinstance(found, tuple):
            value, context = found
            return Lookup(True, self._codec.decode(value), self._codec.decode(context) if context else None)
        return Lookup(False, wait_ms=found or 0)

    async def cache(self, key: str, value: Any, context: dict[str, Any] | None, ttl_ms: int) -> None:
        """Keep a result, if the right to make it is still this run's."""
        change = b"" if context is None else self._codec.encode(context)
        await self._scripts.cache_store(key, self._lease, self._codec.encode(value), change, ttl_ms)

    async def give_up(self, key: str) -> None:
        """Give up the right to make a result."""
        await self._scripts.cache_store(key, self._lease, b"", b"", 1)

    @property
    def _lease(self) -> str:
        """The same for every control step of a node, and every attempt."""
        return f"{self._attempt.claim.run_id} {self.path.partition('!')[0]}"


def _slices(payloads: Sequence[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Payloads that go together, with the number of the first."""
    first, together, size = 0, list[bytes](), 0
    for number, payload in enumerate(payloads):
        if together and (len(together) == _MOST_PAYLOADS or size + len(payload) > _MOST_BYTES):
            yield first, together
            first, together, size = number, [], 0
        together.append(payload)
        size += len(payload)
    if together:
        yield first, together
