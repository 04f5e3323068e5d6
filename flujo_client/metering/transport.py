"""An HTTP transport that meters a provider's calls, for httpx and for clients that are built like it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from flujo_client.metering.bounds import call_bound, guessed_tokens
from flujo_client.metering.readings import (
    AskedCall,
    StreamReading,
    TokenUsage,
    read_answer,
    read_call,
    read_usage,
    text_bytes,
)
from flujo_client.metering.refusals import heed
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.pricing import price_usd
from flujo_client.protocol.step_run import ProviderCall, StepRun, current_step_run, inside_call, metered_step_run

__all__ = ["MeteredTransport"]

#: Reads the tokens from the JSON of a response; None if it says nothing.
UsageReader = Callable[[Mapping[str, Any]], TokenUsage | None]

T = TypeVar("T")


class MeteredTransport:
    """Pays for each request out of the budget of the step that makes it.

    `httpx.AsyncClient(transport=MeteredTransport(httpx.AsyncHTTPTransport()))`, and `httpx.Client` with an `HTTPTransport` in
    steps that are plain functions. A request's bound is reserved before it, what the response says is reported after it, of
    a stream when that ends; a budget that cannot pay stops the request. Refusals of the provider (status 400 and above) cost
    a request and nothing else; an answer that says no usage costs its bound. Outside of steps, inside a call that is metered
    already, and for requests that ask no model for anything, it changes nothing.

    Args:
        wrapped: Sends the requests.
        read: Finds the usage in a response that comes whole.
        account: The named account of the provider's key, held back when the provider says `Retry-After`; default: those
            that the step names.
    """

    def __init__(self, wrapped: Any, *, read: UsageReader = read_usage, account: str | None = None) -> None:
        self._wrapped = wrapped
        self._read = read
        self._account = account

    async def handle_async_request(self, request: Any) -> Any:
        """See `httpx.AsyncBaseTransport`. Raises `UsageLimitExceededError` if the budget cannot pay."""
        run, asked = metered_step_run(), _prepare(request, await request.aread())
        paid = None if run is None or asked is None else await _begin(run, asked)
        with _under_way(paid):
            response = await self._wrapped.handle_async_request(request)
            body = await response.aread() if paid is not None and _is_json(response) else b""
        await self._answered(current_step_run(), paid, response, body, _AsyncParts)
        return response

    def handle_request(self, request: Any) -> Any:
        """See `httpx.BaseTransport`; for threads, in which plain functions run.

        Raises:
            ConfigurationError: It is called on an event loop, and has to wait for Redis or for a named account.
            UsageLimitExceededError: The budget cannot pay.
        """
        run, asked = metered_step_run(), _prepare(request, request.read())
        paid = None if run is None or asked is None else _wait(run, _begin(run, asked))
        with _under_way(paid):
            response = self._wrapped.handle_request(request)
            body = response.read() if paid is not None and _is_json(response) else b""
        current = current_step_run()
        if current is not None and (paid is not None or _is_refusal(response)):
            _wait(current, self._answered(current, paid, response, body, _Parts))
        return response

    async def _answered(
        self, run: StepRun | None, paid: _PaidCall | None, response: Any, body: bytes, parts: type[_Parts | _AsyncParts]
    ) -> None:
        """Settle what is paid, or have it settled when the stream ends."""
        if _is_refusal(response):
            await heed(run, response.headers, self._account)
        if paid is None:
            return
        if _is_refusal(response):
            paid.call.report(requests=1)
        elif "text/event-stream" in _content_type(response):
            base = getattr(import_module(type(response).__module__.partition(".")[0]), parts.base)
            response.stream = type(parts.__name__, (parts, base), {})(response.stream, paid)
            return
        else:
            answer = read_answer(body)
            paid.report(self._read(answer), text_bytes(answer))
        await paid.call.settle()

    async def aclose(self) -> None:
        """Close what sends the requests."""
        await self._wrapped.aclose()

    def close(self) -> None:
        """Close what sends the requests."""
        self._wrapped.close()

    async def __aenter__(self) -> MeteredTransport:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._wrapped.__aexit__(*error)

    def __enter__(self) -> MeteredTransport:
        self._wrapped.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._wrapped.__exit__(*error)


@dataclass(frozen=True, slots=True)
class _PaidCall:
    """A request that is paid for, and by whom."""

    run: StepRun
    call: ProviderCall
    asked: AskedCall

    def report(self, used: TokenUsage | None, answer_bytes: int, *, whole: bool = True) -> None:
        """What an answer said that was used; of one that said nothing, or broke off, what can be guessed."""
        if used is not None and whole:
            self.call.report(**self._amounts(used, strict=self.run.strict_pricing))
            return
        sent = guessed_tokens(self.asked.prompt_bytes) if used is None else used.input_tokens
        answered = max(guessed_tokens(answer_bytes), 0 if used is None else used.output_tokens)
        self.call.note(**self._amounts(TokenUsage(sent, answered), strict=False))

    def _amounts(self, used: TokenUsage, *, strict: bool) -> dict[str, Any]:
        cost_usd = price_usd(self.asked.model, None, used.input_tokens, used.output_tokens, strict=strict, usage=used)
        return {"tokens": used.total, "cost_usd": cost_usd, "requests": 1}


class _ReadAlong:
    """A response's stream, which is read along, and settled when it is closed."""

    def __init__(self, stream: Any, paid: _PaidCall) -> None:
        self._stream = stream
        self._paid = paid
        self._reading = StreamReading()
        self._exhausted = False

    async def _end(self) -> None:
        reading = self._reading
        whole = (self._exhausted or reading.ended) and not reading.has_gaps
        self._paid.report(reading.usage, reading.text_bytes, whole=whole)
        await self._paid.call.settle()


class _AsyncParts(_ReadAlong):
    """On an event loop."""

    base = "AsyncByteStream"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._reading.feed(part)
            yield part
        self._exhausted = True

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._end()


class _Parts(_ReadAlong):
    """In a thread."""

    base = "SyncByteStream"

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._reading.feed(part)
            yield part
        self._exhausted = True

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            _wait(self._paid.run, self._end())


def _prepare(request: Any, content: bytes) -> AskedCall | None:
    """What a request asks for. What is to be read on its way must not come compressed."""
    asked = read_call(request.url.path, content)
    if asked is not None and asked.streams:
        request.headers["accept-encoding"] = "identity"
    return asked


async def _begin(run: StepRun, asked: AskedCall) -> _PaidCall:
    bound = call_bound(asked.model, None, asked.prompt_bytes, asked.max_tokens, long_cache=asked.long_cache)
    return _PaidCall(run, await run.usage.begin(requests=1, **bound), asked)


@contextmanager
def _under_way(paid: _PaidCall | None) -> Iterator[None]:
    """While the request is sent. If it breaks off, the provider may have billed it."""
    try:
        with inside_call():
            yield
    except BaseException:
        if paid is not None:
            paid.call.close()
        raise


def _wait(run: StepRun, work: Coroutine[Any, Any, T]) -> T:
    """What the attempt's loop does meanwhile, for a thread. On the loop itself, as in process, only what it need not wait for."""
    assert run.loop is not None
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run_coroutine_threadsafe(work, run.loop).result()
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise ConfigurationError(
        f"Run {run.run_id}, step {run.path}: a sync HTTP client stops the event loop that its call has to be paid on.",
        suggestion="Use the async client, or make the step a plain function with a timeout_s, which runs in a thread.",
    )


def _is_refusal(response: Any) -> bool:
    return bool(response.status_code >= 400)


def _is_json(response: Any) -> bool:
    return "json" in _content_type(response)


def _content_type(response: Any) -> str:
    return str(response.headers.get("content-type", ""))
