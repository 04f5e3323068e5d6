"""How much an attempt used, where the step did not say so itself."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.quota import TOKENS, Amounts, add_amounts, used_amounts
from flujo_client.protocol.results import PipelineResult

__all__ = ["measure_usage"]


def measure_usage(reported: Amounts, output: Any) -> Amounts:
    """The usage of a finished attempt.

    Args:
        reported: What the step added through `run.usage`; if anything, that alone counts.
        output: What the step returned, before it became a payload.

    Returns:
        By meter. An output with `cost_usd` and `token_counts` says it itself, a nested run's result has its totals, and
        a bare string counts as one token, as users of the single-process library know it.

    Raises:
        UsageAmountError: The output says what is no amount.
    """
    if reported:
        return dict(reported)
    if isinstance(output, PipelineResult):
        return add_amounts({}, output.usage)
    cost_usd = getattr(output, "cost_usd", None)
    if isinstance(cost_usd, int | float):
        tokens = getattr(output, "token_counts", 0)
        return used_amounts(tokens if isinstance(tokens, int) else 0, cost_usd, {})
    return {TOKENS: 1} if isinstance(output, str) else {}
