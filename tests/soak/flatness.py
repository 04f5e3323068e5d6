"""Whether something grows: the rule that the soak judges its samples by. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["JUDGED_SHARE", "Flatness", "judge_flatness"]

#: The last part of a series that is judged; before it caches fill and the first runs reach the end of their retention.
JUDGED_SHARE = 2 / 3

#: What a flat series may rise over the judged time, as a share of its mean: load is seeded, not constant.
RISE_SHARE = 0.10

#: Fewer samples say nothing.
FEWEST = 8


@dataclass(frozen=True, slots=True)
class Flatness:
    """What one series did.

    Attributes:
        mean: Over the judged time.
        rise: Of the line through it (least squares), from the beginning of that time to its end.
        allowed: The largest rise that is still flat.
    """

    mean: float
    rise: float
    allowed: float

    @property
    def is_flat(self) -> bool:
        return self.rise <= self.allowed


def judge_flatness(points: Sequence[tuple[float, float]], slack: float) -> Flatness | None:
    """Judge the last two thirds of a series. It is flat if its line rises by a tenth of its mean at most, or by `slack`.

    Args:
        points: Time, s, and value; by time.
        slack: What a series that is small may rise all the same, in its own unit.

    Returns:
        None if there are too few samples.
    """
    if not points:
        return None
    first, last = points[0][0], points[-1][0]
    judged = [point for point in points if point[0] >= last - (last - first) * JUDGED_SHARE]
    if len(judged) < FEWEST:
        return None
    mean_at = sum(at for at, _ in judged) / len(judged)
    mean = sum(value for _, value in judged) / len(judged)
    spread = sum((at - mean_at) ** 2 for at, _ in judged)
    slope = sum((at - mean_at) * (value - mean) for at, value in judged) / spread
    return Flatness(mean, slope * (judged[-1][0] - judged[0][0]), max(slack, RISE_SHARE * mean))
