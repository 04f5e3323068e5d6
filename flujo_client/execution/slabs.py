"""`SlabMover`: moves what a named account has between its home and the shards, so that all of them together keep its limits.

A transfer is three scripts, each idempotent by the transfer's number: the shard closes what it gives back and says what it
holds, the home lends, the shard takes. Whoever is next goes on where another died; see docs/state_machine.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from flujo_client.execution.slab_sizes import even_share, kept_free, most_wanted
from flujo_client.protocol.quota import Amounts, parse_amounts
from flujo_client.protocol.replies import SlabLoan, SlabOffer
from flujo_client.protocol.scripts import Scripts

__all__ = ["SlabMover"]

#: Transfers that one look makes at most: one that another left, one that the home had not seen, its own.
_MOST_TRANSFERS: Final = 4

#: How long a shard believes that nobody has more, ms; then it is asked for again. As often as sweeps look.
_DRY_MS: Final = 500

#: How long a home remembers that a shard asked in vain, ms: some looks of those that go on asking.
_VAIN_MS: Final = 2_500

#: How long a shard from which something is recalled lets nobody in beyond its even share, ms: two looks of those who ask in vain.
_RECALL_MS: Final = 1_000


class SlabMover:
    """Moves slabs of named accounts. Any number of movers may do so at once, and each may die anywhere.

    Args:
        scripts: On the Redis that holds the runs.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._keyspace = scripts.keyspace

    async def serve(self, name: str, shard: int) -> None:
        """Fetch what a shard needs for those who wait there, or return what it has no use for.

        Raises:
            StateUnavailableError: Redis does not answer; what is left undone is found by the next call.
        """
        if self._keyspace.shards == 1 or (limits := await self._limits(name, shard)) is None:
            return
        loan = await self._move(name, shard, limits, {}, 0, last=False)
        if loan is not None and loan.lenders:
            even = even_share(limits, self._keyspace.shards)
            share = {meter: even[meter] for meter in loan.short}  # who lends keeps what nobody lacks
            await asyncio.gather(
                *(self._move(name, lender, limits, share, _RECALL_MS, last=False) for lender in loan.lenders)
            )
            await self._move(name, shard, limits, {}, 0, last=True)

    async def gather_in(self, name: str) -> None:
        """Return what the shards have free, but for even shares of those on which somebody waits.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        if self._keyspace.shards == 1:
            return
        for shard in range(self._keyspace.shards):
            limits = await self._limits(name, shard)
            if limits is not None:
                share = even_share(limits, self._keyspace.shards)
                await self._move(name, shard, limits, share, 0, last=False)

    async def _limits(self, name: str, shard: int) -> Amounts | None:
        """Of an account whose slabs move; None if it is not defined there."""
        key = self._keyspace.shard("named", shard)
        definition = await self._scripts.commands.execute("HGET", key, f"def|{name}")
        return None if definition is None else parse_amounts(" ".join(definition.decode().split()[5:]))

    async def _move(
        self,
        name: str,
        shard: int,
        limits: Mapping[str, int],
        share: Mapping[str, int],
        recall_ms: int,
        *,
        last: bool,
    ) -> SlabLoan | None:
        """Make a transfer, after those that others have left under way.

        Args:
            share: What the shard may hold, of what others ask for in vain; empty if none do.
            recall_ms: How long it lets nobody in beyond that.
            last: Who lends was asked already: what is not granted now is not to be had.

        Returns:
            What the home said, if the shard needs more than it has; else nothing.
        """
        shards, seen = self._keyspace.shards, 0
        kept = {} if share else kept_free(limits, shards)
        for _ in range(_MOST_TRANSFERS):
            offer = await self._scripts.offer_slab(name, shard, seen, kept, share, recall_ms)
            if offer is None:
                return None
            loan = await self._lend(name, shard, limits, offer)
            if loan is None:
                return None
            if isinstance(loan, int):
                seen = loan
                continue
            short = bool(offer.least) and not loan.granted and not loan.repeated
            dry = short and (last or not loan.lenders)
            await self._scripts.take_slab(name, shard, offer.transfer, loan.granted, _DRY_MS if dry else 0)
            if not loan.repeated:
                return loan if short else None
        return None

    async def _lend(self, name: str, shard: int, limits: Mapping[str, int], offer: SlabOffer) -> SlabLoan | int | None:
        most = most_wanted(limits, self._keyspace.shards, offer.needs)
        return await self._scripts.lend_slab(name, shard, offer, most, _VAIN_MS)
