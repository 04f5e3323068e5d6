"""When a dispatch that nobody leased is published again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Judgement", "judge_dispatch"]

#: How far the queue's intake must have passed a dispatch for it to be overtaken: messages of one queue are first in, first out.
_OVERTAKEN_MS = 2_000

_LOOK_AGAIN_MS = 1_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """Publish it now, or look again; `next_ms` is when to look the next time, from now."""

    publish: bool
    next_ms: int


def judge_dispatch(published_ms: int, copies: int, latest_leased_ms: int, empty_before_ms: int | None) -> Judgement:
    """Judge a dispatch whose time has come. All times in Redis ms.

    Args:
        published_ms: When it was last published; 0 for never, as for a retry that waited for its time.
        copies: How often it was published.
        latest_leased_ms: The latest publication among the dispatches of its queue that were leased.
        empty_before_ms: When the sweep before saw the broker's queue empty, if it is empty now as well; else None.

    Returns:
        Copies follow at 2 s + 1, 2, 4 … 60 s, so that their number grows with the logarithm of the wait.
    """
    lost = (
        published_ms == 0
        or latest_leased_ms > published_ms + _OVERTAKEN_MS
        or (empty_before_ms is not None and empty_before_ms > published_ms)  # seen empty twice since then
    )
    if not lost:
        return Judgement(publish=False, next_ms=_LOOK_AGAIN_MS)
    return Judgement(publish=True, next_ms=2_000 + min(60_000, 1_000 * 2 ** min(copies, 6)))
