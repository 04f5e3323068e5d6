"""Budgets: usage limits, estimates, and `Quota`, the arithmetic of one holder of budget.

Inside, money is integer nano-USD and "unlimited" is None. Floats in USD, infinity and the token sentinel 2**31 - 1
exist only at the edge of the public `Quota` and `UsageLimits`, and are converted there.

The accounts of a run live in Redis and move by scripts. `Quota` is what one process holds of them in its hands: the
manager splits a parallel node's budget with it before advance.lua checks and books the shares, and a worker meters a
step with it against what reserve.lua gave the step.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from flujo_client.protocol.errors import QuotaExceededError, UsageAmountError
from flujo_client.protocol.told import Told

__all__ = [
    "COST",
    "METER_NAME",
    "REQUESTS",
    "TOKENS",
    "Amounts",
    "Quota",
    "Share",
    "UsageEstimate",
    "UsageLimits",
    "add_amounts",
    "amount_words",
    "amounts_text",
    "limit_name",
    "parse_amounts",
    "share_by_weights",
    "share_evenly",
    "to_nano_usd",
    "to_usd",
    "usd_text",
    "used_amounts",
]

#: Meters that every run has.
COST = "cost_nanousd"
TOKENS = "tokens"

#: Calls of providers: what metered calls and agents' answers say. Limited only where somebody asks for it.
REQUESTS = "requests"

#: Amounts by meter: nano-USD for cost, a count for the others.
Amounts = dict[str, int]

#: Largest amount that Redis' Lua, whose numbers are doubles, counts exactly.
_MOST = 2**53 - 1
_UNLIMITED_TOKENS = 2**31 - 1

#: What a meter may be called.
METER_NAME = re.compile(r"[A-Za-z0-9_]+")


def to_nano_usd(usd: float) -> int:
    """Convert USD to integer nano-USD, rounding half to even; the one place where floats become money."""
    return round(usd * 1e9)


def to_usd(nano_usd: int) -> float:
    """Convert nano-USD to USD for people and the public API."""
    return nano_usd / 1e9


def usd_text(nano_usd: int) -> str:
    """Money as people read it, exactly: `$0.0025`."""
    whole, rest = divmod(abs(nano_usd), 10**9)
    return f"{'-' if nano_usd < 0 else ''}${whole}.{rest:09}".rstrip("0").rstrip(".")


def amount_words(meter: str, amount: int) -> str:
    """An amount with its unit: `$0.0025`, `40 tokens`."""
    return usd_text(amount) if meter == COST else f"{amount} {meter}"


def limit_name(meter: str) -> str:
    """The field of `UsageLimits` that limits a meter: `total_tokens_limit`, `meters['pages']`."""
    return {COST: "total_cost_usd_limit", TOKENS: "total_tokens_limit"}.get(meter, f"meters['{meter}']")


def amounts_text(amounts: Mapping[str, int]) -> str:
    """Amounts as the scripts read them: `tokens=5 cost_nanousd=7`."""
    return " ".join(f"{meter}={amount}" for meter, amount in amounts.items())


def parse_amounts(text: str) -> Amounts:
    """The inverse of `amounts_text`."""
    return {meter: int(amount) for meter, _, amount in (word.partition("=") for word in text.split())}


def used_amounts(tokens: Any, cost_usd: Any, meters: Mapping[str, Any]) -> Amounts:
    """What user code says that it used, or is going to, by meter; what is zero or less is left out.

    Raises:
        UsageAmountError: A count is no integer, a cost is no finite number, a meter has no valid name, or one of them is
            too large to count.
    """
    try:
        cost = to_nano_usd(float(cost_usd)) if not isinstance(cost_usd, str | bytes) else None
    except (TypeError, ValueError, OverflowError):
        cost = None
    if cost is None:
        raise UsageAmountError(f"cost_usd must be a finite number, not {cost_usd!r}.")
    amounts = {COST: cost}
    for meter, count in {TOKENS: tokens, **meters}.items():
        if not METER_NAME.fullmatch(meter):
            raise UsageAmountError(f"A meter's name consists of letters, digits and '_', not {meter!r}.")
        try:
            amounts[meter] = operator.index(count)
        except TypeError:
            raise UsageAmountError(f"{meter} must be an integer, not {count!r}.") from None
    return add_amounts({}, amounts)


def add_amounts(used: Amounts, more: Amounts) -> Amounts:
    """Both together, without what is zero or less in `more`. Raises `UsageAmountError` if that is too large to count."""
    total = dict(used)
    for meter, amount in more.items():
        if amount > 0:
            total[meter] = used.get(meter, 0) + amount
            if total[meter] > _MOST:
                raise UsageAmountError(f"{total[meter]} {meter} are more than can be counted ({_MOST}).")
    return total


@dataclass(frozen=True, slots=True)
class Share:
    """One meter of a split: `remainder` of the shares are `base` + 1, those of the lowest indices; the rest `base`.

    Attributes:
        parts: The shares one by one, where they are weighted.
    """

    total: int
    count: int
    base: int
    remainder: int
    parts: tuple[int, ...] = ()

    def of(self, index: int) -> int:
        """The share of one."""
        return self.parts[index] if self.parts else self.base + (index < self.remainder)

    @property
    def text(self) -> str:
        """As the scripts read it."""
        if self.parts:
            return " ".join(("w", *map(str, self.parts)))
        return f"{self.count} {self.base} {self.remainder}"


def share_evenly(total: int, count: int) -> Share:
    """Split an amount into `count` shares that differ by at most one.

    Raises:
        ValueError: `count` is not positive.
    """
    if count <= 0:
        raise ValueError(f"cannot split into {count} shares")
    base, remainder = divmod(total, count)
    return Share(total, count, base, remainder)


def share_by_weights(total: int, weights: Sequence[int]) -> Share:
    """Split an amount in proportion to weights; what does not divide goes to the lowest indices, one each.

    Raises:
        ValueError: There are no weights, or one is not positive.
    """
    if not weights or min(weights) < 1:
        raise ValueError(f"cannot split by the weights {list(weights)}")
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    left = total - sum(parts)
    return Share(total, len(parts), 0, 0, tuple(part + (index < left) for index, part in enumerate(parts)))


_MeterName = Annotated[str, Field(pattern=f"^{METER_NAME.pattern}$")]
_Amount = Annotated[int, Field(ge=0, le=_MOST)]


class UsageLimits(Told):
    """The most that a run, or a step, may use. None means unlimited.

    `meters` limits counts that the user names (letters, digits, `_`); steps report them through `run.usage.add()`.
    With `strict_estimates` a step is refused, before anything runs, that has no estimate of a meter that is limited.

    Raises:
        ConfigurationError: An option that there is not, or that cannot be what it is; names each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    total_cost_usd_limit: float | None = Field(None, ge=0, le=to_usd(_MOST), description="USD")
    total_tokens_limit: int | None = Field(None, ge=0, le=_MOST)
    meters: dict[_MeterName, _Amount] = Field(default_factory=dict)
    strict_estimates: bool = False

    def amounts(self) -> Amounts:
        """The limits by meter, without the unlimited ones."""
        limits = dict(self.meters)
        if self.total_cost_usd_limit is not None:
            limits[COST] = to_nano_usd(self.total_cost_usd_limit)
        if self.total_tokens_limit is not None:
            limits[TOKENS] = self.total_tokens_limit
        return limits


class UsageEstimate(Told):
    """What an attempt is expected to use: an upper bound where one is known."""

    model_config = ConfigDict(frozen=True)

    cost_usd: float = 0.0
    tokens: int = 0
    meters: dict[str, int] = Field(default_factory=dict)

    def amounts(self) -> Amounts:
        """The estimate by meter; what is zero or less is left out."""
        amounts = {COST: to_nano_usd(self.cost_usd), TOKENS: self.tokens, **self.meters}
        return {meter: amount for meter, amount in amounts.items() if amount > 0}


class Quota:
    """What one holder may still use, per meter. Thread-safe; not serialisable by design.

    Args:
        remaining_cost_usd: USD; infinity is unlimited.
        remaining_tokens: Tokens; 2**31 - 1 counts as a large but finite number, as existing code expects.
    """

    def __init__(self, remaining_cost_usd: float = math.inf, remaining_tokens: int = _UNLIMITED_TOKENS) -> None:
        self._lock = Lock()
        self._remaining: dict[str, int | None] = {
            COST: None if math.isinf(remaining_cost_usd) else to_nano_usd(remaining_cost_usd),
            TOKENS: remaining_tokens,
        }

    @classmethod
    def of(cls, remaining: Mapping[str, int | None]) -> Self:
        """A quota over integer meters; a meter that is missing or None is unlimited."""
        quota = cls()
        quota._remaining = {COST: None, TOKENS: None, **remaining}
        return quota

    def get_remaining(self) -> tuple[float, int]:
        """What is left, as (USD, tokens); infinity and 2**31 - 1 where unlimited."""
        with self._lock:
            cost, tokens = self._remaining[COST], self._remaining[TOKENS]
        return (math.inf if cost is None else to_usd(cost), _UNLIMITED_TOKENS if tokens is None else tokens)

    def remaining(self) -> dict[str, int | None]:
        """What is left by meter; None where unlimited."""
        with self._lock:
            return dict(self._remaining)

    def has_sufficient_quota(self, estimate: UsageEstimate) -> bool:
        """Whether `reserve` would succeed now."""
        with self._lock:
            return self._covers(estimate.amounts())

    def reserve(self, estimate: UsageEstimate | Mapping[str, int]) -> bool:
        """Take an estimate, all meters or none. Negative amounts count as zero; taking exactly what is left is allowed.

        Args:
            estimate: A `UsageEstimate`, or integer amounts by meter.
        """
        amounts = _amounts(estimate)
        with self._lock:
            if not self._covers(amounts):
                return False
            for meter, amount in amounts.items():
                self._take(meter, amount)
            return True

    def reclaim(self, estimate: UsageEstimate | Mapping[str, int], actual: UsageEstimate | Mapping[str, int]) -> None:
        """Settle an earlier reservation against what was really used: less is put back, more is taken.

        Raises:
            QuotaExceededError: More was used than was reserved and left; those meters are now at zero.
        """
        reserved, used = _amounts(estimate), _amounts(actual)
        with self._lock:
            before = dict(self._remaining)
            over: dict[str, int] = {}
            for meter in reserved.keys() | used.keys():
                extra = used.get(meter, 0) - reserved.get(meter, 0)
                left = self._remaining.get(meter)
                if left is None:
                    continue
                self._remaining[meter] = max(0, left - extra)
                if extra > left:
                    over[meter] = extra
            if over:
                raise QuotaExceededError(
                    math.inf if (cost := before[COST]) is None else to_usd(cost),
                    before[TOKENS] or 0,
                    to_usd(over.get(COST, 0)),
                    over.get(TOKENS, 0),
                )

    def refund(self, amount: UsageEstimate | Mapping[str, int]) -> None:
        """Put an amount back, or add what was newly granted; nothing happens to an unlimited meter."""
        amounts = _amounts(amount)
        with self._lock:
            for meter, number in amounts.items():
                self._take(meter, -number)

    def split(self, count: int, weights: Sequence[int] = ()) -> list[Quota]:
        """Hand everything to `count` new quotas, in equal shares or by weights; the remainder to the lowest indices.

        Unlimited meters stay unlimited on both sides. Twice: the second split hands out zeros.

        Raises:
            ValueError: `count` is not positive, or there is not a positive weight for each.
        """
        if count <= 0 or len(weights) not in (0, count):
            raise ValueError(f"cannot split into {count} shares")
        with self._lock:
            shares = {meter: _share(left, count, weights) for meter, left in self._remaining.items()}
            self._remaining = {meter: None if share is None else 0 for meter, share in shares.items()}
        return [
            Quota.of({meter: None if share is None else share.of(index) for meter, share in shares.items()})
            for index in range(count)
        ]

    def _covers(self, amounts: Mapping[str, int]) -> bool:
        return all(
            left is None or left >= amount
            for meter, amount in amounts.items()
            for left in (self._remaining.get(meter),)
        )

    def _take(self, meter: str, amount: int) -> None:
        left = self._remaining.get(meter)
        if left is not None:
            self._remaining[meter] = left - amount

    def __reduce__(self) -> Any:
        raise TypeError("a Quota stays in the process that holds it")


def _share(left: int | None, count: int, weights: Sequence[int]) -> Share | None:
    if left is None:
        return None
    return share_by_weights(left, weights) if weights else share_evenly(left, count)


def _amounts(amount: UsageEstimate | Mapping[str, int]) -> Amounts:
    if isinstance(amount, UsageEstimate):
        return amount.amounts()
    return {meter: number for meter, number in amount.items() if number > 0}
