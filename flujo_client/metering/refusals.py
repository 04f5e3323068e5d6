"""What a provider's refusal says, and whom it holds back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from flujo_client.protocol.step_run import StepRun

__all__ = ["heed", "read_retry_after"]


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """For how many seconds a provider wants to be left alone; None if it does not say.

    Args:
        headers: Of its response, whatever the case of their names.
    """
    told = {name.lower(): value for name, value in headers.items()}
    try:
        if "retry-after-ms" in told:
            return float(told["retry-after-ms"]) / 1000
        return float(told["retry-after"]) if "retry-after" in told else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(told["retry-after"])
    except (KeyError, ValueError):
        return None
    return max(0.0, (until - datetime.now(until.tzinfo)).total_seconds())


async def heed(run: StepRun | None, headers: Mapping[str, str] | None, account: str | None) -> None:
    """Hold an account back if a provider's refusal asks for it; nothing outside of steps."""
    delay_s = read_retry_after(headers or {})
    if run is not None and delay_s is not None:
        await run.retry_after(delay_s, account)
