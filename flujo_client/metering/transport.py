"""An HTTP transport that meters a provider's calls, for httpx and for clients that are built like it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from flujo_client.metering.bounds import call_bound
from flujo_client.protocol.pricing import price_usd
from flujo_client.protocol.step_run import current_step_run

__all__ = ["MeteredTransport", "read_retry_after", "read_usage"]

#: Reads input and output tokens from the JSON of a response; None if it says nothing.
UsageReader = Callable[[Mapping[str, Any]], tuple[int, int] | None]


def read_usage(body: Mapping[str, Any]) -> tuple[int, int] | None:
    """Input and output tokens of a response of OpenAI, Anthropic or Google, or of what speaks like them."""
    usage = body.get("usage") or body.get("usageMetadata") or {}
    for sent, answered in (
        ("input_tokens", "output_tokens"),
        ("prompt_tokens", "completion_tokens"),
        ("promptTokenCount", "candidatesTokenCount"),
    ):
        if isinstance(usage.get(sent), int):
            return usage[sent], int(usage.get(answered) or 0)
    return None


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


class MeteredTransport:
    """Pays for each request out of the budget of the step that makes it.

    `httpx.AsyncClient(transport=MeteredTransport(httpx.AsyncHTTPTransport()))`. Its bound is reserved before the request,
    what the response says is reported after it; a budget that cannot pay stops the request. Refusals of the provider
    (status 400 and above) cost nothing; an answer that says no usage, as streams do, costs its bound. Outside of steps, and
    for requests without a JSON body, it changes nothing.

    Args:
        wrapped: Sends the requests.
        read: Finds the usage in a response.
        account: The named account of the provider's key, held back when the provider says `Retry-After`; default: those
            that the step names.
    """

    def __init__(self, wrapped: Any, *, read: UsageReader = read_usage, account: str | None = None) -> None:
        self._wrapped = wrapped
        self._read = read
        self._account = account

    async def handle_async_request(self, request: Any) -> Any:
        """See `httpx.AsyncBaseTransport`. Raises `UsageLimitExceededError` if the budget cannot pay."""
        run, asked = current_step_run(), _json_of(await request.aread())
        if run is None or "model" not in asked:
            return await self._wrapped.handle_async_request(request)
        model = str(asked["model"])
        most = next((asked[name] for name in _MOST_TOKENS if isinstance(asked.get(name), int)), None)
        bound = call_bound(model, None, len(request.content), most)
        async with run.usage.call(requests=1, **bound) as report:
            response = await self._wrapped.handle_async_request(request)
            if response.status_code >= 400:
                report(requests=1)
                delay_s = read_retry_after(response.headers)
                if delay_s is not None:
                    await run.retry_after(delay_s, self._account)
            elif "json" in response.headers.get("content-type", ""):
                used = self._read(_json_of(await response.aread()))
                if used is not None:
                    cost_usd = price_usd(model, None, *used, strict=run.strict_pricing)
                    report(tokens=sum(used), cost_usd=cost_usd, requests=1)
        return response

    async def aclose(self) -> None:
        """Close what sends the requests."""
        await self._wrapped.aclose()

    async def __aenter__(self) -> MeteredTransport:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._wrapped.__aexit__(*error)


_MOST_TOKENS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def _json_of(content: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(content or b"{}")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
