"""`Account`: a named budget above the runs, and the words in which Redis keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import ConfigDict, Field, field_validator, model_validator

from flujo_client.protocol.quota import Amounts, UsageLimits
from flujo_client.protocol.told import Told

__all__ = ["SLOTS", "Account", "AccountName"]

AccountName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

#: The meter of attempts that are leased at this moment.
SLOTS: Final = "slots"

#: A sliding window is kept in so many parts. What an attempt took counts for one part longer than the window, so that a
#: call which follows its reservation by some ms still finds the window that it was counted in.
_PARTS: Final = 200

#: Windows of a calendar that are known ahead: of days ten years.
_AHEAD: Final = 4_000


class Account(Told):
    """A budget that any number of runs share: of a team, of a provider's key.

    Limits of `requests` count every attempt as one at least. A calendar window starts empty at midnight, or on the first
    of the month, in its time zone; a sliding one, a timedelta, counts what was taken within that time before any moment.
    Without a window the limits are for ever.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: AccountName
    limits: UsageLimits = UsageLimits()
    slots: int | None = Field(
        None, ge=1, description="attempts that may run at once, whatever the window; None: any number"
    )
    window: Literal["day", "month"] | timedelta | None = None
    time_zone: str = Field("UTC", description="of a calendar window, as the IANA names it")
    when_exhausted: Literal["refuse", "wait"] = Field(
        "refuse", description="end the run that asks, or let its step wait until there is room"
    )
    pipelines: tuple[str, ...] = Field(
        (), description="names of pipelines whose runs it pays for; those that end with * stand for what begins so"
    )

    @field_validator("time_zone")
    @classmethod
    def _is_a_time_zone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError(f"{name!r} is no time zone, such as Europe/Berlin")
        return name

    @field_validator("pipelines")
    @classmethod
    def _are_patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if any(not pattern or " " in pattern or "*" in pattern[:-1] for pattern in patterns):
            raise ValueError("a pattern is a pipeline's name, or how it begins and a *")
        return patterns

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if isinstance(self.window, timedelta) and not timedelta(seconds=1) <= self.window <= timedelta(days=366):
            raise ValueError("a sliding window lasts from a second to a year")
        if not self.amounts():
            raise ValueError("an account limits something: give it limits or slots")
        if self.limits.strict_estimates:
            raise ValueError(
                "strict_estimates is asked of a run, by its own usage_limits; an account cannot ask for it"
            )
        return self

    def amounts(self) -> Amounts:
        """The limits by meter."""
        return {**self.limits.amounts(), **({} if self.slots is None else {SLOTS: self.slots})}

    @property
    def definition(self) -> str:
        """As the scripts read it; see lua/_named.lua."""
        kind, length_ms, grain_ms, span = "total", 0, 0, "ever"
        if isinstance(self.window, timedelta):
            window_ms = self.window // timedelta(milliseconds=1)
            grain_ms = -(-window_ms // _PARTS)
            kind, length_ms, span = "sliding", window_ms + grain_ms, f"{window_ms / 1000:g}s"
        elif self.window is not None:
            kind, span = "calendar", f"{self.window}@{self.time_zone}"
        limits = " ".join(f"{meter}={limit}" for meter, limit in self.amounts().items())
        return f"{self.when_exhausted} {kind} {length_ms} {grain_ms} {span} {limits}"

    def calendar(self, now: datetime) -> list[int]:
        """Starts of the window at a moment and of those after it, ms since 1970; none unless it has a calendar's."""
        if self.window is None or isinstance(self.window, timedelta):
            return []
        zone = ZoneInfo(self.time_zone)
        first = now.astimezone(zone).date()
        days = _days(first) if self.window == "day" else _months(first)
        starts = (datetime(day.year, day.month, day.day, tzinfo=zone) for day in days)
        return [round(start.timestamp() * 1000) for start in starts]


def _days(first: date) -> Iterator[date]:
    for number in range(_AHEAD):
        yield first + timedelta(days=number)


def _months(first: date) -> Iterator[date]:
    for number in range(first.month - 1, first.month - 1 + _AHEAD):
        yield date(first.year + number // 12, number % 12 + 1, 1)


def now_utc() -> datetime:
    """This moment."""
    return datetime.now(UTC)
