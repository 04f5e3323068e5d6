"""`StepRun`: what a step function is told about itself when it asks for `run`, and what it reports back."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from flujo_client.protocol.errors import UsageLimitExceededError
from flujo_client.protocol.quota import Amounts, Quota, add_amounts, used_amounts

__all__ = ["StepRun", "UsageMeter", "ValueStore", "current_step_run", "entered_step_run"]

_CURRENT: ContextVar[StepRun | None] = ContextVar("flujo_step_run", default=None)


def current_step_run() -> StepRun | None:
    """The attempt that this code runs in, for libraries that a step calls; None outside of steps."""
    return _CURRENT.get()


@contextmanager
def entered_step_run(run: StepRun) -> Iterator[None]:
    """While a step's function runs."""
    token = _CURRENT.set(run)
    try:
        yield
    finally:
        _CURRENT.reset(token)


#: See `UsageMeter`.
Extend = Callable[[Amounts], Awaitable[Mapping[str, Any] | None]]


class UsageMeter:
    """Counts what one attempt uses, against what its account reserved for it.

    Args:
        quota: What the account can pay; the attempt's estimate is taken from it here.
        estimate: What reserve.lua reserved.
        extend: Asks the account for more; None if granted, else the facts of the refusal: account, meter, asked and free.
    """

    def __init__(self, quota: Quota, estimate: Amounts, extend: Extend) -> None:
        self.quota = quota
        self.used: Amounts = {}
        self._reserved: Amounts = dict(estimate)  # and not yet used up
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
        await self._reserve(used_amounts(tokens, cost_usd, meters))

    async def _reserve(self, amounts: Amounts) -> None:
        """Take amounts from what is reserved, and what is missing from the account; all of it or nothing."""
        held = {meter: min(amount, self._reserved.get(meter, 0)) for meter, amount in amounts.items() if amount > 0}
        missing = {meter: amounts[meter] - amount for meter, amount in held.items() if amount < amounts[meter]}
        self._give_back({meter: -amount for meter, amount in held.items()})
        refused = await self._extend(missing) if missing else None
        if refused is not None:
            self._give_back(held)
            raise UsageLimitExceededError(
                f"The budget cannot pay {refused['asked']} {refused['meter']} more: account {refused['account']} could get "
                f"{refused['free']}.",
                **refused,
            )

    def _give_back(self, amounts: Amounts) -> None:
        for meter, amount in amounts.items():
            self._reserved[meter] = self._reserved.get(meter, 0) + amount

    @asynccontextmanager
    async def call(
        self, *, tokens: int = 0, cost_usd: float = 0.0, unbilled: tuple[type[BaseException], ...] = (), **meters: int
    ) -> AsyncIterator[Callable[..., None]]:
        """One call of a provider: reserve an upper bound before it, report what it used after it, keep the rest for the next.

        Yields a function that takes what was used, as `add` does. A call that ends without a report may have been billed
        all the same (a time-out, a connection that broke): its whole bound counts as used.

        Args:
            tokens, cost_usd, meters: The bound, as `reserve` takes it.
            unbilled: Errors after which the provider bills nothing.

        Raises:
            UsageLimitExceededError: The budget cannot pay, for the bound or, after the call, for what it used beyond it. Let
            it through.
        """
        bound = used_amounts(tokens, cost_usd, meters)
        await self._reserve(bound)
        before, reported = dict(self.used), False

        def report(**used: Any) -> None:
            nonlocal reported
            reported = True
            self.add(**used)

        try:
            yield report
        except unbilled:
            reported = True
            raise
        finally:
            if not reported:
                self.used = add_amounts(self.used, bound)
            cost = {meter: amount - before.get(meter, 0) for meter, amount in self.used.items()}
            self._give_back({meter: max(0, amount - cost.get(meter, 0)) for meter, amount in bound.items()})
        await self._reserve({meter: amount - bound.get(meter, 0) for meter, amount in cost.items()})


class ValueStore(Protocol):
    """Keeps values beside the run, for as long as the run is kept."""

    async def put(self, value: Any) -> str:
        """Keep a value and return its name, which any later step of the run may have. Called again by another attempt, it
        replaces what the one before kept.

        Raises:
            PayloadError: The value cannot be stored.
        """

    async def get(self, name: str) -> Any:
        """A value by its name. Raises `KeyError` if there is none."""


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
        strict_pricing: Whether usage that has no price is an error.
        values: For values that are too large for the context: `name = await run.values.put(value)`.
        accounts: Named accounts that the step names.
        hold_back: Holds a named account back for so many ms; None outside of workers.
        emit: `await run.emit(chunk)` shows a JSON value to the run's followers while the step runs.
    """

    run_id: str
    path: str
    attempt: int
    nonce: str
    usage: UsageMeter
    values: ValueStore
    emit: Callable[[Any], Awaitable[None]]
    logger: logging.LoggerAdapter[logging.Logger] = field(repr=False)
    strict_pricing: bool = False
    accounts: tuple[str, ...] = ()
    hold_back: Callable[[str, int], Awaitable[Any]] | None = field(default=None, repr=False)

    async def retry_after(self, delay_s: float, account: str | None = None) -> None:
        """Hold the whole fleet back from a provider that asks for it: no attempt that draws on the account starts meanwhile.

        Args:
            delay_s: As the provider's `Retry-After` says; of several delays the longest counts.
            account: A named account; default: those that the step itself names.
        """
        for name in self.accounts if account is None else (account,):
            if self.hold_back is not None and await self.hold_back(name, max(0, round(delay_s * 1000))) is None:
                self.logger.warning("nobody has defined the account that a provider held back", extra={"account": name})

    @property
    def idempotency_key(self) -> str:
        """`<run>:<path>`."""
        return f"{self.run_id}:{self.path}"
