"""`StepRun`: what a step function is told about itself when it asks for `run`, and what it reports back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from flujo_client.protocol.errors import UsageLimitExceededError
from flujo_client.protocol.quota import Amounts, Quota, add_amounts, amount_words, used_amounts

__all__ = [
    "ProviderCall",
    "StepRun",
    "UsageMeter",
    "ValueStore",
    "current_step_run",
    "entered_step_run",
    "inside_call",
    "metered_step_run",
]

_CURRENT: ContextVar[StepRun | None] = ContextVar("flujo_step_run", default=None)
_INSIDE_CALL: ContextVar[bool] = ContextVar("flujo_inside_call", default=False)


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


def metered_step_run() -> StepRun | None:
    """The attempt that has to pay for a call of a provider which this code makes; None where nobody has, or somebody does already."""
    return None if _INSIDE_CALL.get() else _CURRENT.get()


@contextmanager
def inside_call() -> Iterator[None]:
    """While a call is made that is paid for: what it consists of is not paid for again."""
    before = _INSIDE_CALL.get()
    _INSIDE_CALL.set(True)
    try:
        yield
    finally:
        _INSIDE_CALL.set(before)  # and no token, since a generator may be closed in another context


#: See `UsageMeter`.
Extend = Callable[[Amounts], Awaitable[Mapping[str, Any] | None]]


class UsageMeter:
    """Counts what one attempt uses, against what its account reserved for it.

    Args:
        quota: What the account can pay; the attempt's estimate is taken from it here.
        estimate: What reserve.lua reserved.
        extend: Asks the account for more; None if granted, else the facts of the refusal: account, meter, asked and free.

    Attributes:
        refusals: What it has raised as the account could not pay.
    """

    def __init__(self, quota: Quota, estimate: Amounts, extend: Extend) -> None:
        self.quota = quota
        self.used: Amounts = {}
        self._reserved: Amounts = dict(estimate)  # and not yet used up
        self._extend = extend
        self._open: set[ProviderCall] = set()
        self.refusals: list[UsageLimitExceededError] = []

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
        await self.reserve_amounts(used_amounts(tokens, cost_usd, meters))

    async def reserve_amounts(self, amounts: Amounts) -> None:
        """Take amounts from what is reserved, and what is missing from the account; all of it or nothing. Raises as `reserve`."""
        held = {meter: min(amount, self._reserved.get(meter, 0)) for meter, amount in amounts.items() if amount > 0}
        missing = {meter: amounts[meter] - amount for meter, amount in held.items() if amount < amounts[meter]}
        self.give_back({meter: -amount for meter, amount in held.items()})
        try:
            refused = await self._extend(missing) if missing else None
        except BaseException:  # it was not answered, or the caller waits no more
            self.give_back(held)
            raise
        if refused is not None:
            self.give_back(held)
            refusal = UsageLimitExceededError(
                f"The budget cannot pay {amount_words(refused['meter'], refused['asked'])} more: account {refused['account']} "
                f"had {amount_words(refused['meter'], refused['free'])} free.",
                **refused,
            )
            self.refusals.append(refusal)
            raise refusal

    def give_back(self, amounts: Amounts) -> None:
        """What was taken from the reservation pays for what follows."""
        for meter, amount in amounts.items():
            self._reserved[meter] = self._reserved.get(meter, 0) + amount

    async def begin(self, *, tokens: int = 0, cost_usd: float = 0.0, **meters: int) -> ProviderCall:
        """Reserve an upper bound for one call of a provider; for what cannot be a block of code: see `call`.

        Returns:
            The call, which must be settled.

        Raises:
            UsageAmountError: One of them is no amount.
            UsageLimitExceededError: The budget cannot pay. Let it through.
        """
        bound = used_amounts(tokens, cost_usd, meters)
        await self.reserve_amounts(bound)
        call = ProviderCall(self, bound, self._open.discard)
        self._open.add(call)
        return call

    def close_calls(self) -> None:
        """The attempt ends: a call that is still under way, as a stream that nobody has closed, may have been billed."""
        for call in tuple(self._open):
            call.close()

    @asynccontextmanager
    async def call(
        self, *, tokens: int = 0, cost_usd: float = 0.0, unbilled: tuple[type[BaseException], ...] = (), **meters: int
    ) -> AsyncIterator[Callable[..., None]]:
        """One call of a provider: reserve an upper bound before it, report what it used after it, keep the rest for the next.

        Yields a function that takes what was used, as `add` does. A call that ends without a report may have been billed
        all the same (a time-out, a connection that broke): its whole bound counts as used. Metered models and transports
        leave alone what is called inside: it is this call.

        Args:
            tokens, cost_usd, meters: The bound, as `reserve` takes it.
            unbilled: Errors after which the provider bills nothing.

        Raises:
            UsageLimitExceededError: The budget cannot pay, for the bound or, after the call, for what it used beyond it. Let
            it through.
        """
        made = await self.begin(tokens=tokens, cost_usd=cost_usd, **meters)
        try:
            with inside_call():
                yield made.report
        except unbilled:
            made.close(billed=False)
            raise
        except BaseException:
            made.close()
            raise
        await made.settle()


class ProviderCall:
    """One call of a provider under way. By `UsageMeter.begin`; calls of one attempt may overlap.

    Args:
        meter: Holds the bound reserved.
        bound: What is reserved.
        closed: Told when it has ended.
    """

    def __init__(self, meter: UsageMeter, bound: Amounts, closed: Callable[[ProviderCall], None]) -> None:
        self._meter = meter
        self._bound = bound
        self._closed = closed
        self._is_closed = False
        self._noted: Amounts = {}
        self._used: Amounts | None = None
        self._assumed: Amounts = {}  # of what is used, for want of a report

    def report(self, *, tokens: int = 0, cost_usd: float = 0.0, **meters: int) -> None:
        """Say what the call used, as `UsageMeter.add` does. Adds up; after the call has ended it replaces the bound that was assumed.

        Raises:
            UsageAmountError: One of them is no amount; nothing was added.
        """
        amounts = used_amounts(tokens, cost_usd, meters)
        if self._assumed:  # the finalizer of a stream that nobody closed says it late
            self._meter.used = {name: used - self._assumed.get(name, 0) for name, used in self._meter.used.items()}
            self._used, self._assumed = None, {}
        self._meter.used = add_amounts(self._meter.used, amounts)
        self._used = add_amounts(self._used or {}, amounts)

    def note(self, *, tokens: int = 0, cost_usd: float = 0.0, **meters: int) -> None:
        """Say what the call has used for certain, if nothing is reported: it counts where it is more than the bound.

        Raises:
            UsageAmountError: One of them is no amount.
        """
        self._noted = used_amounts(tokens, cost_usd, meters)

    def close(self, *, billed: bool = True) -> Amounts:
        """End the call: what it did not use of its bound pays for the next. Called again, it does nothing.

        Args:
            billed: A call without a report may have been billed, and costs its bound.

        Returns:
            What it used beyond its bound, which nobody has reserved.
        """
        if self._is_closed:
            return {}
        self._is_closed = True
        self._closed(self)
        if self._used is None:
            meters = self._bound | self._noted if billed else {}
            self._used = {meter: max(self._bound.get(meter, 0), self._noted.get(meter, 0)) for meter in meters}
            self._assumed = self._used
            self._meter.used = add_amounts(self._meter.used, self._used)
        used = self._used
        self._meter.give_back({meter: max(0, amount - used.get(meter, 0)) for meter, amount in self._bound.items()})
        return {meter: amount - self._bound.get(meter, 0) for meter, amount in used.items()}

    async def settle(self) -> None:
        """End the call, and reserve what it used beyond its bound, before the next.

        Raises:
            UsageLimitExceededError: The budget cannot pay for that. Let it through.
        """
        await self._meter.reserve_amounts(self.close())


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
        loop: On which everything here that is awaited runs; what runs in a thread waits for it there.
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
    loop: asyncio.AbstractEventLoop | None = field(default=None, repr=False)

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
