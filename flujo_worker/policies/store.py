"""What a control step may store beside its output, while it holds its lease."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.scripts import Scripts
from flujo_worker.attempt import Attempt

__all__ = ["ControlStore"]

#: What one script call stores at the most; Redis serves nobody else meanwhile.
_MOST_PAYLOADS, _MOST_BYTES = 500, 1_000_000


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

    async def stash(self, values: Sequence[Any]) -> None:
        """Store values as payloads `out:<path>.<number>` of their own, in slices.

        Raises:
            PayloadError: A value cannot be stored.
            NonRetryableError: The lease is lost; what was stored is written over by whoever has it.
        """
        claim = self._attempt.claim
        for first, payloads in _slices([self._codec.encode(value) for value in values]):
            if not await self._scripts.stash(claim, f"out:{claim.path}", first, payloads):
                raise NonRetryableError(f"The lease of run {claim.run_id} step {claim.path} is lost.")


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
