"""What a provider's refusal says, and whom it holds back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from flujo_client.protocol.step_run import StepRun

__all__ = ["heed", "read_retry_after"]

#: For how long one refusal holds an account back at the most, s: a wrong header must not stop a fleet for days. Who asks then is told again.
_LONGEST_S = 3_600.0


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a provider wants to be left alone, an hour at the most; None if it does not say.

    Args:
        headers: Of its response, whatever the case of their names.
    """
    delay_s = _told({name.lower(): value for name, value in headers.items()})
    return None if delay_s is None or math.isnan(delay_s) else min(max(0.0, delay_s), _LONGEST_S)


def _told(headers: Mapping[str, str]) -> float | None:
    try:
        if "retry-after-ms" in headers:
            return float(headers["retry-after-ms"]) / 1000
        return float(headers["retry-after"]) if "retry-after" in headers else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return (until - datetime.now(until.tzinfo)).total_seconds()


async def heed(run: StepRun | None, headers: Mapping[str, str] | None, account: str | None) -> None:
    """Hold an account back if a provider's refusal asks for it; nothing outside of steps."""
    delay_s = read_retry_after(headers or {})
    if run is not None and delay_s is not None:
        await run.retry_after(delay_s, account)
