"""What a call of a model can cost at the most, before it is made. Pure."""

from __future__ import annotations

from typing import Any, Final

from flujo_client.protocol.pricing import known_price_usd

__all__ = ["call_bound"]

#: Bytes of a prompt that make a token, where no bound is possible anyhow.
_BYTES_PER_TOKEN: Final = 4


def call_bound(model: str, provider: str | None, prompt_bytes: int, max_tokens: int | None) -> dict[str, Any]:
    """The `tokens` and `cost_usd` to reserve for a call.

    Args:
        prompt_bytes: Of everything that is sent: a token has one byte at least.
        max_tokens: That the model may answer. Without them nothing bounds the call: then only a guess at the prompt is
            reserved, and what the call used beyond it is reserved right after it, before the next.
    """
    if max_tokens is None:
        sent, answered = prompt_bytes // _BYTES_PER_TOKEN, 0
    else:
        sent, answered = prompt_bytes, max_tokens
    return {"tokens": sent + answered, "cost_usd": known_price_usd(model, provider, sent, answered) or 0.0}
