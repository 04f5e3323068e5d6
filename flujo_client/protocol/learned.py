"""Estimates that are learned: an upper quantile of what the last attempts of a step have used, where a step asks for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence

from flujo_client.protocol.queues import task_label
from flujo_client.protocol.quota import Amounts, parse_amounts
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec

__all__ = ["FEWEST_SETTLES", "LearnedEstimates", "quantile_of"]

#: Settles from which an estimate is learned at the earliest; what the step declares counts until then.
FEWEST_SETTLES = 20

#: How long what was read is taken for true, s.
_FRESH_S = 5.0

#: Steps of which that is kept at once, those that were read last.
_MOST_KNOWN = 1_000


def quantile_of(settles: Sequence[Mapping[str, int]], quantile: float) -> Amounts:
    """What so large a part of the settles did not exceed, by meter: an amount that was seen, never one between two."""
    meters = sorted({meter for settle in settles for meter in settle})
    rank = math.ceil(quantile * len(settles)) - 1
    return {meter: sorted(settle.get(meter, 0) for settle in settles)[rank] for meter in meters}


class LearnedEstimates:
    """Reads what steps have used, and keeps it for some seconds.

    Args:
        scripts: On the Redis where workers note it.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._known: dict[str, tuple[float, Amounts]] = {}

    async def of(self, spec: PipelineSpec) -> Mapping[str, Amounts]:
        """What was learned of a pipeline's steps, by label; none of a step that does not ask for it, or has run too rarely.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        learned = {}
        for name, quantile in spec.quantiles.items():
            label = task_label(spec.name, name)
            known = self._known.get(label)
            if known is None or time.monotonic() - known[0] > _FRESH_S:
                known = (time.monotonic(), await self._read(label, quantile))
                self._known.pop(label, None)
                while len(self._known) >= _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
                self._known[label] = known
            if known[1]:
                learned[label] = known[1]
        return learned

    async def _read(self, label: str, quantile: float) -> Amounts:
        rows = await self._scripts.commands.execute("HGETALL", self._scripts.keyspace.settles(label))
        settles = list(_settles(rows))
        return quantile_of(settles, quantile) if len(settles) >= FEWEST_SETTLES else {}


def _settles(rows: Sequence[bytes]) -> Iterable[Amounts]:
    for field, usage in zip(rows[::2], rows[1::2], strict=True):
        if field.isdigit():
            yield parse_amounts(usage.decode())
