"""What a call of a model can cost at the most, before it is made. Pure."""

from __future__ import annotations

from typing import Any, Final

from flujo_client.metering.readings import TokenUsage
from flujo_client.protocol.pricing import known_price_usd

__all__ = ["call_bound", "guessed_tokens"]

#: Bytes of text that make a token, where no bound is possible anyhow.
_BYTES_PER_TOKEN: Final = 4


def guessed_tokens(text_bytes: int) -> int:
    """About how many tokens a text has; no bound."""
    return text_bytes // _BYTES_PER_TOKEN


def call_bound(
    model: str, provider: str | None, prompt_bytes: int, max_tokens: int | None, *, long_cache: bool = False
) -> dict[str, Any]:
    """The `tokens` and `cost_usd` to reserve for a call.

    Args:
        prompt_bytes: Of everything that is sent: a token has one byte at least.
        max_tokens: That the model may answer. Without them nothing bounds the call: then only a guess at the prompt is
            reserved, and what the call used beyond it is reserved right after it, before the next.
        long_cache: The prompt may be written into the provider's cache for an hour; for minutes, any may.
    """
    if max_tokens is None:
        sent, answered = guessed_tokens(prompt_bytes), 0
    else:
        sent, answered = prompt_bytes, max_tokens
    dearest = [
        TokenUsage(sent, answered),
        TokenUsage(sent, answered, cache_write_tokens=sent, cache_write_1h_tokens=sent if long_cache else 0),
    ]
    prices = [known_price_usd(model, provider, sent, answered, usage) or 0.0 for usage in dearest]
    return {"tokens": sent + answered, "cost_usd": max(prices)}
