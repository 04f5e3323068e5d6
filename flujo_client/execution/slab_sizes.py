"""How much of a named account a shard holds: pure rules of its limits, its shards and what is asked."""

from __future__ import annotations

from collections.abc import Mapping

from flujo_client.protocol.quota import Amounts

__all__ = ["even_share", "kept_free", "most_wanted"]

#: Of its even share a shard may have this part free for those who come next: so few attempts wait for a transfer, and so
#: little lies idle where nobody needs it.
_PART = 4


def even_share(limits: Mapping[str, int], shards: int) -> Amounts:
    """What a shard may hold while others ask in vain, whoever waits there."""
    return {meter: limit // shards for meter, limit in limits.items()}


def kept_free(limits: Mapping[str, int], shards: int) -> Amounts:
    """What may stay free on a shard where something runs and nobody waits."""
    return {meter: share // _PART for meter, share in even_share(limits, shards).items()}


def most_wanted(limits: Mapping[str, int], shards: int, needs: Mapping[str, int]) -> Amounts:
    """What a shard asks for at most: what those who wait there need, and something for who comes next. Limits bound it."""
    spare = kept_free(limits, shards)
    return {meter: min(limits[meter], asked + spare[meter]) for meter, asked in needs.items() if meter in limits}
