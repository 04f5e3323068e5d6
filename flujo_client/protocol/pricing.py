"""What a model's tokens cost, by the price list of genai-prices (an extra)."""

from __future__ import annotations

import logging
from typing import Any

from flujo_client.protocol.errors import PricingNotConfiguredError

try:
    import genai_prices
except ImportError:  # pragma: no cover - the extra is not installed: nothing has a price
    genai_prices = None  # type: ignore[assignment]  # stands for the module that is not there

__all__ = ["known_price_usd", "price_usd"]

logger = logging.getLogger(__name__)


def known_price_usd(
    model: str, provider: str | None, input_tokens: int, output_tokens: int, usage: Any = None
) -> float | None:
    """The price of a call in USD; None if the list does not know the model.

    Args:
        model: Its name, with or without its provider: `gpt-4o`, `openai:gpt-4o`.
        provider: Who serves it; one that the list does not know is left out.
        usage: Instead of the two counts, if it says more: cached tokens, audio.
    """
    if genai_prices is None:  # pragma: no cover - see above
        return None
    prefix, colon, name = model.partition(":")
    provider, model = (prefix, name) if colon and provider is None else (provider, model)
    counted = usage or genai_prices.Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    for provider_id in dict.fromkeys((provider, None)):
        try:
            return float(genai_prices.calc_price(counted, model, provider_id=provider_id).total_price)
        except LookupError:
            continue
    return None


def price_usd(
    model: str | None, provider: str | None, input_tokens: int, output_tokens: int, *, strict: bool, usage: Any = None
) -> float:
    """The price of a call in USD; 0 where it is unknown. Arguments as of `known_price_usd`.

    Raises:
        PricingNotConfiguredError: It is unknown, and `strict`.
    """
    price = None if model is None else known_price_usd(model, provider, input_tokens, output_tokens, usage)
    if price is not None:
        return price
    named = model or "an agent that does not name its model"
    if strict:
        raise PricingNotConfiguredError(provider, named)
    logger.debug("usage without a price", extra={"model": named, "provider": provider})
    return 0.0
