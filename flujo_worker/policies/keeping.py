"""`AttemptValues`: values that an attempt keeps beside the run, and reads again in a later one."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.replies import Claim
from flujo_client.protocol.scripts import Scripts

__all__ = ["AttemptValues"]

#: How the names of kept values begin; the place of their step follows, so that forks take them along.
_KEPT = "kept:"


class AttemptValues:
    """See `ValueStore`.

    Args:
        scripts: On a connection of the attempt's loop.
        codec: Of the payloads.
        claim: The attempt.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, claim: Claim) -> None:
        self._scripts = scripts
        self._codec = codec
        self._claim = claim
        self._count = 0

    async def put(self, value: Any) -> str:
        """See `ValueStore.put`. Raises `NonRetryableError` if the lease is lost."""
        claim, number = self._claim, self._count
        self._count += 1
        if not await self._scripts.stash(claim, f"{_KEPT}{claim.path}", number, [self._codec.encode(value)]):
            raise NonRetryableError(f"The lease of run {claim.run_id} step {claim.path} is lost.")
        return f"{_KEPT}{claim.path}.{number}"

    async def get(self, name: str) -> Any:
        """See `ValueStore.get`."""
        payloads = self._scripts.keyspace.run(self._claim.run_id).payloads
        stored = await self._scripts.commands.execute("HGET", payloads, name) if name.startswith(_KEPT) else None
        if stored is None:
            raise KeyError(name)
        return self._codec.decode(stored)
