"""`StepRun`: what a step function is told about itself when it asks for `run`, and what it reports back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from flujo_client.protocol.errors import UsageLimitExceededError
from flujo_client.protocol.quota import COST, TOKENS, Amounts, Quota, add_amounts, used_amounts

__all__ = ["StepRun", "UsageMeter"]


class UsageMeter:
    """Counts what one attempt uses, against what its account reserved for it.

    Args:
        quota: What the account can pay; the attempt's estimate is taken from it here.
        estimate: What reserve.lua reserved.
        extend: Asks the account for more; None if granted, else the meter that was refused.
    """

    def __init__(self, quota: Quota, estimate: Amounts, extend: Callable[[Amounts], Awaitable[str | None]]) -> None:
        self.quota = quota
        self.used: Amounts = {}
        self._reserved = Quota.of({COST: 0, TOKENS: 0, **estimate})
        self._extend = extend

    def add(self, *, tokens: int = 0, cost_usd: float = 0.0, **meters: int) -> None:
        """Report what was used, right after it was used. Adds up over the attempt.

        Args:
            tokens: Tokens.
            cost_usd: USD.
            meters: Any meter of the run's `UsageLimits.meters`, by name.

        Raises:
            UsageAmountError: One of them is no amount; nothing was added.
        """
        self.used = add_amounts(self.used, used_amounts(tokens, cost_usd, meters))

    async def reserve(self, *, tokens: int = 0, cost_usd: float = 0.0, **meters: int) -> None:
        """Make sure that the budget can pay for the next call, before it is made.

        Takes from the attempt's reservation first and extends it when that is used up. Called twice, it reserves twice.

        Raises:
            UsageAmountError: One of them is no amount.
            UsageLimitExceededError: The budget cannot pay. Let it through: the run ends with it.
        """
        amounts = used_amounts(tokens, cost_usd, meters)
        if amounts.keys() <= self._reserved.remaining().keys() and self._reserved.reserve(amounts):
            return  # a meter that the estimate does not name has nothing reserved yet
        refused = await self._extend(amounts)
        if refused is not None:
            raise UsageLimitExceededError(
                f"The budget cannot pay {amounts[refused]} {refused} more.", meter=refused, asked=amounts[refused]
            )
        self._reserved.refund(amounts)
        self._reserved.reserve(amounts)


@dataclass(frozen=True, slots=True)
class StepRun:
    """The attempt that a step function is running in.

    Attributes:
        run_id: The run.
        path: The step's place in it, such as `1.0.2`.
        attempt: Which attempt this is, from 1; lost ones count.
        idempotency_key: The same for every attempt of this step in this run: hand it to providers that take one.
        nonce: Of this attempt alone.
        usage: Report and reserve usage here.
        logger: Carries run, step and attempt.
        emit: `await run.emit(chunk)` shows a JSON value to the run's followers while the step runs.
    """

    run_id: str
    path: str
    attempt: int
    nonce: str
    usage: UsageMeter
    emit: Callable[[Any], Awaitable[None]]
    logger: logging.LoggerAdapter[logging.Logger] = field(repr=False)

    @property
    def idempotency_key(self) -> str:
        """`<run>:<path>`."""
        return f"{self.run_id}:{self.path}"
