"""Provider calls over httpx: paid for by the step that makes them, whatever the provider's API looks like."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import pytest
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import FunctionModel

from flujo_client import (
    Account,
    ConfigurationError,
    Flujo,
    PipelineResult,
    PricingNotConfiguredError,
    Step,
    StepRun,
    UsageLimitExceededError,
    UsageLimits,
    current_step_run,
)
from flujo_client.metering.model_agents import MeteredModel
from flujo_client.metering.readings import StreamReading, TokenUsage, read_answer, read_call, read_usage
from flujo_client.metering.transport import MeteredTransport
from flujo_client.protocol.pricing import known_price_usd

CHAT = "/v1/chat/completions"


class Provider:
    """An HTTP server on this machine that answers every request with what it is told to, and notes what it was asked."""

    def __init__(self) -> None:
        self.status, self.parts = 200, [b"{}"]
        self.headers = {"content-type": "application/json"}
        self.asked: list[tuple[str, dict[str, str]]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                provider.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(provider.status)
                for name, value in provider.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in provider.parts:
                    self.wfile.write(part)
                    self.wfile.flush()

            def log_message(self, *message: Any) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        self.status, self.parts = status, [json.dumps(body).encode()]
        self.headers = {"content-type": "application/json", **headers}

    def streams(self, *events: Any) -> None:
        """The events, cut in the middle; what is no text goes as JSON."""
        text = b"".join(b"data: %s\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events)
        self.status, self.headers = 200, {"content-type": "text/event-stream; charset=utf-8"}
        self.parts = [text[:7], text[7 : len(text) // 2], text[len(text) // 2 :]]


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()


def client(provider: Provider, **options: Any) -> httpx.AsyncClient:
    transport: Any = MeteredTransport(httpx.AsyncHTTPTransport(), **options)
    return httpx.AsyncClient(transport=transport, base_url=provider.url)


async def run_of(body: Callable[..., Any], limits: UsageLimits | None = None, **config: Any) -> PipelineResult:
    return await Flujo(Step.from_callable(body, max_retries=0, **config), usage_limits=limits).run_async("x")


async def calling(
    provider: Provider, asked: Any, path: str = CHAT, limits: UsageLimits | None = None
) -> PipelineResult:
    """Run a step that calls the provider once."""

    async def ask(data: Any) -> int:
        async with client(provider) as http:
            return (await http.post(path, json=asked)).status_code

    return await run_of(ask, limits)


def size_of(asked: Any) -> int:
    return len(json.dumps(asked, separators=(",", ":")))


GOOGLE = "/v1beta/models/gemini-2.5-flash:generateContent"
SHORT = {"model": "gpt-4o", "messages": []}
#: API: what is asked, where, what the answer says, and what that comes to.
ANSWERS: dict[str, tuple[Any, str, dict[str, Any], TokenUsage, str]] = {
    "openai": (
        SHORT,
        CHAT,
        {"usage": {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 40}}},
        TokenUsage(100, 50, 40),
        "gpt-4o",
    ),
    "openai responses": (
        SHORT,
        "/v1/responses",
        {"usage": {"input_tokens": 100, "output_tokens": 50, "input_tokens_details": {"cached_tokens": 40}}},
        TokenUsage(100, 50, 40),
        "gpt-4o",
    ),
    "anthropic": (
        {"model": "claude-sonnet-4-5"},
        "/v1/messages",
        {
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 300,
                "cache_read_input_tokens": 500,
                "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
                "output_tokens": 50,
            }
        },
        TokenUsage(810, 50, 500, 300, 100),
        "claude-sonnet-4-5",
    ),
    "google": (
        {"contents": []},
        GOOGLE,
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "cachedContentTokenCount": 40,
                "toolUsePromptTokenCount": 7,
                "candidatesTokenCount": 20,
                "thoughtsTokenCount": 500,
            }
        },
        TokenUsage(107, 520, 40),
        "gemini-2.5-flash",
    ),
}


@pytest.mark.parametrize("api", ANSWERS)
async def test_the_usage_of_an_answer_is_reported_with_its_price(provider: Provider, api: str) -> None:
    asked, path, answer, used, model = ANSWERS[api]
    provider.says(answer)

    result = await calling(provider, asked, path)

    assert result.output == 200
    assert (result.total_tokens, result.usage["requests"]) == (used.total, 1)
    price = known_price_usd(model, None, 0, 0, used)
    assert price
    assert result.total_cost_usd == pytest.approx(price)


def test_what_is_written_into_a_cache_costs_more_and_what_is_read_less() -> None:
    plain, read, written, long = (
        known_price_usd("claude-sonnet-4-5", None, 0, 0, usage) or 0
        for usage in (
            TokenUsage(1000, 0),
            TokenUsage(1000, 0, cache_read_tokens=1000),
            TokenUsage(1000, 0, cache_write_tokens=1000),
            TokenUsage(1000, 0, cache_write_tokens=1000, cache_write_1h_tokens=1000),
        )
    )

    assert read < plain < written < long


TWO = {"generationConfig": {"maxOutputTokens": 30, "candidateCount": 2}}
CALLS: list[tuple[str, Any, tuple[str, int | None, bool] | None]] = [
    (CHAT, {"model": "gpt-4o", "max_tokens": 20}, ("gpt-4o", 20, False)),
    (CHAT, {"model": "gpt-4o", "max_tokens": 20, "n": 3, "stream": True}, ("gpt-4o", 60, True)),
    (CHAT, {"model": "gpt-4o", "n": 3}, ("gpt-4o", None, False)),
    (GOOGLE, TWO, ("gemini-2.5-flash", 60, False)),
    (GOOGLE.replace("generate", "streamGenerate"), {}, ("gemini-2.5-flash", None, True)),
    (GOOGLE.replace("generateContent", "countTokens"), {}, None),
    ("/v1beta/models/text-1:embedContent", {"model": "models/text-1"}, ("text-1", 0, False)),
    ("/v1/messages/count_tokens", {"model": "claude-sonnet-4-5"}, None),
    ("/v1/files", {"no": "model"}, None),
    (CHAT, [1], None),
]


@pytest.mark.parametrize(("path", "asked", "meant"), CALLS)
def test_what_a_request_asks_for(path: str, asked: Any, meant: tuple[str, int | None, bool] | None) -> None:
    call = read_call(path, json.dumps(asked).encode())

    assert (call and (call.model, call.max_tokens, call.streams)) == meant


async def test_a_request_that_the_budget_cannot_pay_is_not_sent(provider: Provider) -> None:
    with pytest.raises(UsageLimitExceededError):
        await calling(
            provider,
            {"model": "gpt-4o", "max_tokens": 200, "n": 3},
            limits=UsageLimits(total_tokens_limit=500),
        )

    assert provider.asked == []


async def test_the_bound_of_a_prompt_that_may_be_cached_is_the_price_of_that(provider: Provider) -> None:
    asked = {"model": "claude-sonnet-4-5", "max_tokens": 1, "system": "x" * 1000, "cache_control": {"ttl": "1h"}}

    result = await calling(provider, asked, "/v1/messages")  # the answer says nothing: its bound

    size = size_of(asked)
    written = known_price_usd("claude-sonnet-4-5", None, 0, 0, TokenUsage(size, 1, 0, size, size))
    assert result.total_cost_usd == pytest.approx(written)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_costs_a_request_and_nothing_else(provider: Provider, status: int) -> None:
    provider.says({}, status)

    result = await calling(provider, {"model": "gpt-4o", "max_tokens": 20})

    assert result.output == status
    assert +Counter(result.usage) == {"requests": 1}


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b'{"no": "usage"}', "application/json"), (b"[1", "application/json"), (b"sound", "audio/mpeg")],
    ids=["silent", "garbage", "no JSON"],
)
async def test_an_answer_that_says_no_usage_costs_its_bound(provider: Provider, content: bytes, kind: str) -> None:
    asked = {"model": "gpt-4o", "max_tokens": 20}
    provider.parts, provider.headers = [content], {"content-type": kind}

    result = await calling(provider, asked)

    assert result.total_tokens == size_of(asked) + 20


async def test_an_answer_that_nothing_bounds_and_that_says_no_usage_costs_what_its_text_may_be(
    provider: Provider,
) -> None:
    provider.says({"choices": [{"message": {"content": "x" * 400}}]})

    result = await calling(provider, SHORT)

    assert result.total_tokens == size_of(SHORT) // 4 + 100


async def test_a_call_that_broke_off_costs_its_bound(provider: Provider) -> None:
    asked = {"model": "gpt-4o", "max_tokens": 20}
    provider.headers = {"content-type": "application/json", "content-length": "100"}  # and less comes

    result = await calling(provider, asked)

    assert not result.success
    assert result.total_tokens == size_of(asked) + 20


@pytest.mark.parametrize("asked", [{"no": "model"}, "text", [1]])
async def test_a_request_without_a_model_is_left_alone(provider: Provider, asked: Any) -> None:
    provider.says(ANSWERS["openai"][2])

    result = await calling(provider, asked)

    assert (result.output, result.total_tokens) == (200, 0)


async def test_outside_of_steps_nothing_is_metered(provider: Provider) -> None:
    assert current_step_run() is None
    async with client(provider) as http:
        assert (await http.post(CHAT, json=SHORT)).status_code == 200
    transport: Any = MeteredTransport(httpx.HTTPTransport())
    with httpx.Client(transport=transport, base_url=provider.url) as sync:
        assert sync.post(CHAT, json=SHORT).status_code == 200


def test_a_body_without_usage_says_nothing() -> None:
    assert read_usage({}) is None


def test_of_a_list_of_answers_the_last_that_says_its_usage_counts() -> None:
    parts = [{"usageMetadata": {"promptTokenCount": 1}}, {"usageMetadata": {"promptTokenCount": 2}}, {"end": True}]

    assert read_usage(read_answer(json.dumps(parts).encode())) == TokenUsage(2, 0)
    assert read_answer(b"[]") == {}


#: API: where it streams from, the events, and what they come to.
STREAMS: dict[str, tuple[str, Any, list[Any], int]] = {
    "openai": (
        CHAT,
        {**SHORT, "stream": True},
        [
            {"choices": [{"delta": {"content": "hi"}}], "usage": None},
            {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50}},
            b"[DONE]",
        ],
        150,
    ),
    "openai responses": (
        "/v1/responses",
        {**SHORT, "stream": True},
        [
            {"type": "response.output_text.delta", "delta": "hi"},
            {"type": "response.completed", "response": {"usage": {"input_tokens": 100, "output_tokens": 50}}},
        ],
        150,
    ),
    "anthropic": (
        "/v1/messages",
        {"model": "claude-sonnet-4-5", "stream": True},
        [
            {
                "type": "message_start",
                "message": {"usage": {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1}},
            },
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hi"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
            {"type": "message_stop"},
        ],
        150,
    ),
    "google": (
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        {"contents": []},
        [
            {"usageMetadata": {"promptTokenCount": 100}},
            {"usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 20, "thoughtsTokenCount": 30}},
        ],
        150,
    ),
}


@pytest.mark.parametrize("api", STREAMS)
async def test_a_stream_is_passed_on_and_costs_what_it_says_at_its_end(provider: Provider, api: str) -> None:
    path, asked, events, tokens = STREAMS[api]
    provider.streams(*events)

    async def ask(data: Any) -> str:
        async with client(provider) as http, http.stream("POST", path, json=asked) as response:
            return "".join([part async for part in response.aiter_text()])

    result = await run_of(ask)

    assert result.output.count("data:") == len(events)
    assert (result.total_tokens, result.usage["requests"]) == (tokens, 1)
    assert provider.asked[0][1]["accept-encoding"] == "identity"


async def test_a_stream_that_says_no_usage_costs_its_bound_or_what_its_text_may_be(provider: Provider) -> None:
    provider.streams({"choices": [{"delta": {"content": "x" * 400}}]})
    bounded = {**SHORT, "stream": True, "max_tokens": 1000}

    bound = await calling(provider, bounded)
    guess = await calling(provider, {**SHORT, "stream": True})

    assert bound.total_tokens == size_of(bounded) + 1000
    assert guess.total_tokens == size_of({**SHORT, "stream": True}) // 4 + 100


async def test_a_stream_that_is_left_before_its_end_costs_its_bound_at_least(provider: Provider) -> None:
    path, asked, events, _ = STREAMS["anthropic"]
    provider.streams(*events[:2])
    provider.parts = provider.parts[:2]

    async def ask(data: Any) -> None:
        async with client(provider) as http, http.stream("POST", path, json={**asked, "max_tokens": 70}) as response:
            async for _ in response.aiter_raw():
                break

    result = await run_of(ask)

    assert result.total_tokens == size_of({**asked, "max_tokens": 70}) + 70


async def test_a_stream_that_nobody_closes_costs_its_bound(provider: Provider) -> None:
    provider.streams({"choices": []})
    asked = {**SHORT, "stream": True, "max_tokens": 70}
    kept: list[Any] = []

    async def ask(data: Any) -> None:
        http = client(provider)
        kept.append(http)
        kept.append(await http.send(http.build_request("POST", CHAT, json=asked), stream=True))

    result = await run_of(ask)
    await kept[1].aclose()
    await kept[0].aclose()

    assert result.total_tokens == size_of(asked) + 70


async def test_what_a_stream_used_beyond_its_bound_is_reserved_before_the_next_call(provider: Provider) -> None:
    path, asked, events, _ = STREAMS["openai"]
    provider.streams(*events)

    async def ask(data: Any) -> None:
        async with client(provider) as http:
            for _ in range(2):
                async with http.stream("POST", path, json=asked) as response:
                    await response.aread()

    with pytest.raises(UsageLimitExceededError) as caught:
        await run_of(ask, UsageLimits(total_tokens_limit=140))

    assert len(provider.asked) == 1
    assert caught.value.result.total_tokens == 150


def test_parts_of_a_stream_may_be_cut_anywhere() -> None:
    text = b"".join(b"event: x\ndata: %s\n\n" % json.dumps(event).encode() for event in STREAMS["anthropic"][2])

    for at in range(len(text)):
        reading = StreamReading()
        reading.feed(text[:at])
        reading.feed(text[at:])
        assert reading.usage == TokenUsage(100, 50, 90)
        assert reading.ended


def test_a_character_may_be_cut_into_its_surrogates() -> None:
    reading = StreamReading()

    reading.feed(b'data: {"delta": "\\ud83d"}\ndata: {"delta": "\\ude00"}\n')

    assert reading.text_bytes == 6


def test_a_long_line_in_small_parts_is_read() -> None:
    event = {"text": "x" * 4_000_000, "usage": {"prompt_tokens": 100, "completion_tokens": 50}}
    line = b"data: %s\n" % json.dumps(event).encode()
    reading = StreamReading()

    for at in range(0, len(line), 100):
        reading.feed(line[at : at + 100])

    assert (reading.usage, reading.text_bytes, reading.has_gaps) == (TokenUsage(100, 50), 4_000_000, False)


async def test_a_stream_with_a_line_too_long_to_be_read_costs_its_bound(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flujo_client.metering.readings._LONGEST_LINE", 200)
    asked = {**SHORT, "stream": True, "max_tokens": 500}
    provider.streams({"usage": {"prompt_tokens": 10, "completion_tokens": 1}}, {"text": "x" * 1000}, b"[DONE]")

    result = await calling(provider, asked)

    assert (result.total_tokens, result.usage["requests"]) == (size_of(asked) + 500, 1)


@pytest.mark.parametrize("timeout_s", [None, 30], ids=["on the loop", "in a thread"])
class TestSync:
    """A plain function runs on the loop in process, and in a thread where it has a timeout, as on a worker."""

    @staticmethod
    def asking(provider: Provider, asked: Any, *, times: int = 1) -> Callable[[Any], int]:
        def ask(data: Any) -> int:
            transport: Any = MeteredTransport(httpx.HTTPTransport())
            with httpx.Client(transport=transport, base_url=provider.url) as http:
                for _ in range(times):
                    status = http.post(CHAT, json=asked).status_code
            return status

        return ask

    async def test_a_plain_function_pays_for_its_calls_as_well(
        self, provider: Provider, timeout_s: float | None
    ) -> None:
        provider.says(ANSWERS["openai"][2])

        result = await run_of(self.asking(provider, SHORT, times=3), timeout_s=timeout_s)

        assert (result.total_tokens, result.usage["requests"]) == (450, 3)

    async def test_a_call_that_its_budget_cannot_pay_is_not_made(
        self, provider: Provider, timeout_s: float | None
    ) -> None:
        provider.says(ANSWERS["openai"][2])

        with pytest.raises(UsageLimitExceededError):
            await run_of(
                self.asking(provider, {**SHORT, "max_tokens": 50}, times=9),
                UsageLimits(total_tokens_limit=500),
                timeout_s=timeout_s,
            )

        assert len(provider.asked) == 3

    async def test_a_stream_in_a_thread(self, provider: Provider, timeout_s: float | None) -> None:
        path, asked, events, tokens = STREAMS["openai"]
        provider.streams(*events)

        def ask(data: Any) -> int:
            transport: Any = MeteredTransport(httpx.HTTPTransport())
            with (
                httpx.Client(transport=transport, base_url=provider.url) as http,
                http.stream("POST", path, json=asked) as response,
            ):
                return len(list(response.iter_lines()))

        result = await run_of(ask, timeout_s=timeout_s)

        assert result.output > 3
        assert result.total_tokens == tokens

    async def test_a_refusal_and_what_asks_for_nothing(self, provider: Provider, timeout_s: float | None) -> None:
        provider.says({}, 429)

        refused = await run_of(self.asking(provider, SHORT), timeout_s=timeout_s)
        provider.says({})
        other = await run_of(self.asking(provider, {"no": "model"}), timeout_s=timeout_s)

        assert +Counter(refused.usage) == {"requests": 1}
        assert not +Counter(other.usage)

    async def test_a_call_that_broke_off_costs_its_bound(self, provider: Provider, timeout_s: float | None) -> None:
        provider.headers = {"content-type": "application/json", "content-length": "100"}
        asked = {**SHORT, "max_tokens": 20}

        result = await run_of(self.asking(provider, asked), timeout_s=timeout_s)

        assert (result.success, result.total_tokens) == (False, size_of(asked) + 20)


async def test_on_an_event_loop_a_sync_client_does_not_wait(provider: Provider) -> None:
    provider.says({"usage": {"prompt_tokens": 80, "completion_tokens": 10}})
    key = Account(
        name="key", limits=UsageLimits(total_tokens_limit=150), window=timedelta(hours=1), when_exhausted="wait"
    )
    step: Step[Any, Any] = Step.from_callable(
        TestSync.asking(provider, {**SHORT, "max_tokens": 60}, times=2), accounts=("key",), max_retries=0
    )

    with pytest.raises(ConfigurationError, match="stops the event loop"):
        await Flujo(step, accounts=[key]).run_async("x")

    assert len(provider.asked) == 1


async def test_clients_of_httpx2_are_metered_as_well(provider: Provider) -> None:
    path, asked, events, tokens = STREAMS["openai"]
    provider.streams(*events)

    async def ask(data: Any) -> str:
        transport: Any = MeteredTransport(httpx2.AsyncHTTPTransport())
        async with (
            httpx2.AsyncClient(transport=transport, base_url=provider.url) as http,
            http.stream("POST", path, json=asked) as response,
        ):
            return (await response.aread()).decode()

    assert (await run_of(ask)).total_tokens == tokens


async def test_a_metered_model_over_a_metered_transport_is_metered_once(provider: Provider) -> None:
    provider.says(ANSWERS["openai"][2])

    async def answer(messages: list[Any], info: Any) -> Any:
        async with client(provider) as http:
            await http.post(CHAT, json=SHORT)
        return ModelResponse(parts=[TextPart("x")])

    async def ask(data: Any) -> Any:
        model = MeteredModel(MeteredModel(FunctionModel(answer, model_name="gpt-4o")))
        request = ModelRequest.user_text_prompt("hi")
        return (await model.request([request], None, ModelRequestParameters())).usage.input_tokens

    result = await run_of(ask)

    assert result.usage["requests"] == 1
    assert result.total_tokens == result.output + 1


async def test_what_is_called_inside_a_call_is_that_call_and_what_comes_after_it_is_not(provider: Provider) -> None:
    provider.says(ANSWERS["openai"][2])

    async def ask(data: Any, run: StepRun) -> None:
        async with client(provider) as http:
            async with run.usage.call(tokens=10, requests=1) as report:
                await http.post(CHAT, json=SHORT)
                report(tokens=7, requests=1)
            await http.post(CHAT, json=SHORT)

    result = await run_of(ask)

    assert (result.total_tokens, result.usage["requests"]) == (157, 2)


async def test_a_refusal_that_a_clients_library_wraps_is_one_all_the_same(provider: Provider) -> None:
    async def library() -> None:
        try:
            async with client(provider) as http:
                await http.post(CHAT, json={**SHORT, "max_tokens": 500})
        except UsageLimitExceededError as error:  # as the libraries of providers do
            raise ConnectionError("Connection error.") from error

    async def ask(data: Any) -> None:
        try:
            await library()
        except ConnectionError as error:
            raise ExceptionGroup("all models failed", [ValueError(), error]) from None

    with pytest.raises(UsageLimitExceededError) as caught:
        await run_of(ask, UsageLimits(total_tokens_limit=100))

    assert caught.value.data["meter"] == "tokens"


async def test_what_a_step_makes_of_the_refusal_of_a_run_of_its_own_is_the_steps() -> None:
    async def spend(data: Any, run: StepRun) -> None:
        await run.usage.reserve(tokens=50)

    trial = Flujo(Step.from_callable(spend), usage_limits=UsageLimits(total_tokens_limit=10))

    async def ask(data: Any) -> str:
        try:
            await trial.run_async(data)
        except UsageLimitExceededError as error:
            raise RuntimeError("trial too dear") from error
        return "large"

    async def small(data: Any) -> str:
        return "small"

    asking: Step[Any, Any] = Step.from_callable(ask, max_retries=0).fallback(Step.from_callable(small))
    result = await Flujo(asking).run_async(1)

    assert (result.status, result.output) == ("completed", "small")


async def test_errors_that_cause_themselves_or_each_other_fail_the_step_and_no_more() -> None:
    async def itself(data: Any) -> None:
        error = ValueError("boom")
        raise error from error

    async def each_other(data: Any) -> None:
        one, other = ValueError("boom"), KeyError("other")
        one.__cause__, other.__cause__ = other, one
        raise ExceptionGroup("boom", [one, ValueError("another")])

    for body in (itself, each_other):
        result = await Flujo(Step.from_callable(body, max_retries=0)).run_async(1)

        assert result.status == "failed"
        assert "boom" in (result.step_history[0].feedback or "")


async def test_calls_side_by_side_each_give_back_what_they_did_not_use(provider: Provider) -> None:
    provider.says({"usage": {"prompt_tokens": 10, "completion_tokens": 10}})
    asked = {**SHORT, "max_tokens": 50}
    bound = size_of(asked) + 50

    async def ask(data: Any) -> None:
        async with client(provider) as http:
            for _ in range(4):
                await asyncio.gather(*(http.post(CHAT, json=asked) for _ in range(3)))

    result = await run_of(ask, UsageLimits(total_tokens_limit=3 * bound + 9 * 20))

    assert result.total_tokens == 12 * 20


async def test_usage_without_a_price_is_an_error_where_prices_are_strict(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUJO_STRICT_PRICING", "1")
    provider.says(ANSWERS["openai"][2])

    with pytest.raises(PricingNotConfiguredError, match="nobody-knows-it"):
        await calling(provider, {"model": "nobody-knows-it"})
