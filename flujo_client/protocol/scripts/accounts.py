"""Named accounts above the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_client.protocol.quota import amounts_text, parse_amounts
from flujo_client.protocol.replies import (
    SlabLoan,
    SlabOffer,
)
from flujo_client.protocol.scripts.calls import ScriptCalls, text_of

__all__ = ["AccountScripts"]


class AccountScripts(ScriptCalls):
    """Named accounts above the runs."""

    async def define_account(
        self, name: str, definition: str, calendar: Sequence[int], pipelines: Sequence[str], shard: int = 0
    ) -> None:
        """Define a named account, or define it anew; see lua/_named.lua for the words."""
        starts = " ".join(map(str, calendar))
        await self._call(
            "define_account", self._named(shard), name, definition, starts, " ".join(pipelines), self.keyspace.shards
        )

    async def drop_account(self, name: str, shard: int = 0) -> bool:
        """Forget a named account: it limits nobody any more. False if there is none."""
        reply = await self._call("drop_account", self._named(shard), name, self.keyspace.shards)
        return bool(reply[0] == 1)

    async def hold_back(self, name: str, delay_ms: int, shard: int = 0) -> int | None:
        """Let nobody in by a named account for a while; returns until when, Redis ms. None if there is no such account."""
        keys = [self.keyspace.shard("named", shard), self.keyspace.shard("named_due", shard)]
        reply = await self._call("hold_back", keys, name, delay_ms)
        return int(reply[1]) if reply[0] == 1 else None

    async def hold_back_everywhere(self, name: str, delay_ms: int) -> int | None:
        """As `hold_back` on every shard, each by its own clock; returns the latest of them."""
        shards = range(self.keyspace.shards)
        until = [at for shard in shards if (at := await self.hold_back(name, delay_ms, shard)) is not None]
        return max(until, default=None)

    async def call_waiters(self, name: str, most: int, shard: int = 0) -> list[str]:
        """Let those who wait for a named account go on whom it can pay for now, by age; they are journalled.

        Returns:
            Their dispatches, "run path attempt queue", to be published. As many as `most`: there may be more.
        """
        keys = [*self._named(shard), self.keyspace.shard("dispatches", shard), self.keyspace.shard("published", shard)]
        reply = await self._call("call_waiters", keys, name, most)
        return [text_of(member) for member in reply[1:]]

    async def offer_slab(
        self, name: str, shard: int, seen: int, kept: Mapping[str, int], share: Mapping[str, int], recall_ms: int
    ) -> SlabOffer | None:
        """Begin a shard's transfer with the home of a named account, or go on with the one under way.

        Args:
            seen: The last transfer of the shard that the home is known to have seen.
            kept: What stays free on the shard if nobody waits there.
            share: What it may hold if others ask in vain; empty if none do.
            recall_ms: How long it lets nobody in beyond that, on an account that waits.

        Returns:
            None if there is nothing to move.
        """
        args = (name, seen, amounts_text(kept), amounts_text(share), recall_ms)
        reply = await self._call("offer_slab", self._named(shard), *args)
        if reply[0] == 0:
            return None
        holds, least, needs = (parse_amounts(text_of(amounts)) for amounts in reply[3:6])
        return SlabOffer(int(reply[1]), int(reply[2]), holds, least, needs)

    async def lend_slab(
        self, name: str, shard: int, offer: SlabOffer, most: Mapping[str, int], vain_ms: int
    ) -> SlabLoan | int | None:
        """At an account's home: note what a shard holds, and lend it what it needs at least and `most` at most, or nothing.

        Args:
            vain_ms: How long others mind that it asked in vain.

        Returns:
            The last transfer that the home has seen, if that was a later one; None if its window is another.
        """
        held, least = amounts_text(offer.holds), amounts_text(offer.least)
        args = (
            name,
            shard,
            offer.transfer,
            offer.window,
            held,
            least,
            amounts_text(most),
            self.keyspace.shards,
            vain_ms,
        )
        reply = await self._call("lend_slab", self._named(self.keyspace.home_of(name)), *args)
        match reply[0]:
            case 1 | 2:
                lenders = tuple(map(int, text_of(reply[2]).split()))
                short = () if reply[0] == 2 else tuple(text_of(reply[3]).split())
                return SlabLoan(parse_amounts(text_of(reply[1])), lenders, short, repeated=reply[0] == 2)
            case 0:
                return int(reply[1])
            case _:
                return None

    async def take_slab(self, name: str, shard: int, transfer: int, granted: Mapping[str, int], dry_ms: int) -> bool:
        """On a shard: end a transfer. False if that one is not under way.

        Args:
            dry_ms: How long more is not to be had; 0 if nobody asked in vain.
        """
        key = self.keyspace.shard("named", shard)
        reply = await self._call("take_slab", [key], name, transfer, amounts_text(granted), dry_ms)
        return bool(reply[0] == 1)
