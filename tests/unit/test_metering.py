"""Calls of providers inside a step: reserved before they are made, reported after, and stopped where the budget ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from flujo_client import (
    AppResources,
    Flujo,
    Pipeline,
    PricingNotConfiguredError,
    Step,
    StepRun,
    UsageLimitExceededError,
    UsageLimits,
    current_step_run,
)
from flujo_client.metering.model_agents import MeteredModel, make_agent_async, options_of
from flujo_client.metering.transport import MeteredTransport, read_usage
from flujo_client.protocol.quota import Quota
from flujo_client.protocol.step_run import UsageMeter


class Account:
    """What an account would answer to requests for more."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.asked: list[dict[str, int]] = []

    async def extend(self, amounts: dict[str, int]) -> dict[str, Any] | None:
        self.asked.append(amounts)
        if amounts["tokens"] > self.left:
            return {"account": "root", "meter": "tokens", "asked": amounts["tokens"], "free": self.left}
        self.left -= amounts["tokens"]
        return None


def meter(account: Account, estimate: int = 0) -> UsageMeter:
    return UsageMeter(Quota.of({"tokens": 10_000}), {"tokens": estimate}, account.extend)


class TestCall:
    async def test_what_a_call_did_not_use_pays_for_the_next(self) -> None:
        account = Account(140)
        usage = meter(account)

        for _ in range(5):
            async with usage.call(tokens=100) as report:
                report(tokens=10)

        assert usage.used == {"tokens": 50}
        assert [ask["tokens"] for ask in account.asked] == [100, 10, 10, 10, 10]

    async def test_a_call_that_used_more_than_its_bound_reserves_the_rest_before_the_next(self) -> None:
        account = Account(30)
        usage = meter(account)

        async with usage.call(tokens=10) as report:
            report(tokens=25)
        with pytest.raises(UsageLimitExceededError):
            async with usage.call(tokens=10):
                raise AssertionError("the call must not be made")

        assert [ask["tokens"] for ask in account.asked] == [10, 15, 10]
        assert usage.used == {"tokens": 25}

    async def test_a_call_whose_end_is_unknown_costs_its_bound_and_one_that_is_not_billed_nothing(self) -> None:
        usage = meter(Account(100))

        with pytest.raises(TimeoutError):
            async with usage.call(tokens=10):
                raise TimeoutError
        with pytest.raises(ConnectionError):
            async with usage.call(tokens=10, unbilled=(ConnectionError,)):
                raise ConnectionError

        assert usage.used == {"tokens": 10}


def looping(times: int, *, model: str = "gpt-4o") -> tuple[FunctionModel, list[int]]:
    """A model that calls a tool so many times before it answers; and a note of each request."""
    requests: list[int] = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        requests.append(len(messages))
        if len(requests) <= times:
            return ModelResponse(parts=[ToolCallPart("look", {"place": str(len(requests))})])
        return ModelResponse(parts=[TextPart("found")])

    return FunctionModel(answer, model_name=model), requests


def searcher(model: Any, **options: Any) -> Agent[Any, Any]:
    agent = Agent(model, **options)

    @agent.tool_plain
    def look(place: str) -> str:
        return f"nothing at {place}"

    return agent


class City(BaseModel):
    name: str
    people: int


class Pool(AppResources):
    greeting: str = "hi"


class TestModelAgents:
    async def test_an_agent_is_a_step_as_it_is_and_its_usage_is_priced(self) -> None:
        model, requests = looping(2)
        result = await Flujo(Step(name="search", agent=searcher(model))).run_async("where?")

        part = result.step_history[0]
        assert (part.output, len(requests)) == ("found", 3)
        assert part.token_counts > 100
        assert part.cost_usd > 0
        assert result.usage["requests"] == 3

    async def test_its_output_type_is_the_steps(self) -> None:
        step: Step[Any, Any] = Step(name="city", agent=Agent(TestModel(), output_type=City))

        async def people(city: City) -> int:
            return city.people

        result = await Flujo(step >> Step.from_callable(people)).run_async({"q": "a dict becomes a prompt"})

        assert step.output_type is City
        assert result.output == 0

    async def test_a_list_of_outputs_is_no_one_type(self) -> None:
        step: Step[Any, Any] = Step(name="city", agent=Agent(TestModel(), output_type=[City, int]))

        assert step.output_type is Any

    async def test_an_agent_that_loops_is_stopped_before_the_call_that_would_break_the_cap(self) -> None:
        model, requests = looping(20)
        limits = UsageLimits(total_tokens_limit=1_500)

        with pytest.raises(UsageLimitExceededError) as caught:
            await Flujo(Step(name="search", agent=searcher(model)), usage_limits=limits).run_async("where?")

        assert 1 < len(requests) < 20
        assert caught.value.result.total_tokens <= 1_500 + 200
        data = caught.value.data
        assert (data["account"], data["meter"], data["path"]) == ("root", "tokens", "0")
        assert int(data["free"]) < int(data["asked"])

    async def test_a_limit_of_requests_stops_an_agent_after_so_many(self) -> None:
        model, requests = looping(20)
        limits = UsageLimits(meters={"requests": 3})

        with pytest.raises(UsageLimitExceededError) as caught:
            await Flujo(Step(name="search", agent=searcher(model)), usage_limits=limits).run_async("where?")

        assert len(requests) == 3
        assert caught.value.result.usage["requests"] == 3

    async def test_with_max_tokens_the_cap_is_never_passed(self) -> None:
        model, requests = looping(20)
        agent = searcher(model, model_settings={"max_tokens": 50})

        with pytest.raises(UsageLimitExceededError) as caught:
            await Flujo(Step(name="s", agent=agent), usage_limits=UsageLimits(total_tokens_limit=6_000)).run_async("?")

        assert requests
        assert caught.value.result.total_tokens <= 6_000

    async def test_resources_of_its_type_are_its_dependencies_and_settings_are_passed(self) -> None:
        seen: list[Any] = []

        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            seen.append((info.model_settings or {}).get("temperature"))
            return ModelResponse(parts=[TextPart("x")])

        agent = Agent(FunctionModel(answer), deps_type=Pool)

        @agent.instructions
        def greet(context: Any) -> str:
            seen.append(context.deps.greeting)
            return ""

        step = Step.solution(agent, temperature=0.25)
        await Flujo(step, resources=Pool()).run_async("x")

        assert seen == ["hi", 0.25]

    async def test_a_model_that_is_overridden_in_a_test_still_has_its_usage_counted(self) -> None:
        model, _ = looping(0)
        agent = searcher(model)

        with agent.override(model=TestModel()):
            result = await Flujo(Step(name="search", agent=agent)).run_async("where?")

        assert result.total_tokens > 0

    async def test_a_refusal_of_the_provider_costs_nothing(self) -> None:
        def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise ModelHTTPError(429, "gpt-4o")

        step: Step[Any, Any] = Step(name="s", agent=Agent(FunctionModel(answer)))
        result = await Flujo(step).run_async("x")

        assert (result.success, result.total_tokens) == (False, 0)

    async def test_a_model_without_a_price_is_an_error_where_prices_are_strict(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FLUJO_STRICT_PRICING", "1")
        model, _ = looping(0, model="nobody-knows-it")

        with pytest.raises(PricingNotConfiguredError, match="nobody-knows-it"):
            await Flujo(Step(name="s", agent=searcher(model))).run_async("x")

    async def test_a_stream_is_metered_as_a_request_is(self) -> None:
        agent = Agent(MeteredModel(TestModel()))

        async def streaming(data: str, run: StepRun) -> str:
            async with agent.run_stream(data) as answer:
                return str(await answer.get_output())

        result = await Flujo(Step.from_callable(streaming)).run_async("x")
        outside = await agent.run("x")
        async with agent.run_stream("x") as answer:
            assert await answer.get_output()

        assert result.usage["requests"] == 1
        assert result.total_tokens > 10
        assert outside.output

    async def test_existing_code_makes_agents_by_a_function(self) -> None:
        agent = make_agent_async(TestModel(), "be brief", str, max_retries=3, timeout=5)

        assert (await agent.run("x")).output


BODIES = {
    "openai": {"usage": {"prompt_tokens": 100, "completion_tokens": 50}},
    "anthropic": {"usage": {"input_tokens": 100, "output_tokens": 50}},
    "google": {"usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 50}},
}


class TestTransport:
    @staticmethod
    def client(respond: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
        transport: Any = MeteredTransport(httpx.MockTransport(respond))
        return httpx.AsyncClient(transport=transport, base_url="http://provider")

    async def calling(
        self, respond: Callable[[httpx.Request], httpx.Response], asked: Any, limits: UsageLimits | None = None
    ) -> Any:
        """Run a step that calls the provider once."""

        async def ask(data: Any) -> int:
            async with self.client(respond) as client:
                return (await client.post("/v1/chat", json=asked)).status_code

        return await Flujo(Step.from_callable(ask, max_retries=0), usage_limits=limits).run_async("x")

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    async def test_the_usage_of_a_response_is_reported_with_its_price(self, body: dict[str, Any]) -> None:
        result = await self.calling(lambda request: httpx.Response(200, json=body), {"model": "gpt-4o"})

        assert (result.output, result.total_tokens) == (200, 150)
        assert result.total_cost_usd == pytest.approx(0.00075)

    async def test_a_request_that_the_budget_cannot_pay_is_not_sent(self) -> None:
        sent: list[httpx.Request] = []

        def respond(request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return httpx.Response(200, json={})

        limits = UsageLimits(total_tokens_limit=100)
        with pytest.raises(UsageLimitExceededError):
            await self.calling(respond, {"model": "gpt-4o", "max_tokens": 500}, limits)

        assert sent == []

    @pytest.mark.parametrize(
        ("response", "tokens"),
        [
            (httpx.Response(429, json={}), 0),
            (httpx.Response(200, text="data: x", headers={"content-type": "text/event-stream"}), 64),
            (httpx.Response(200, json={"no": "usage"}), 64),
            (httpx.Response(200, content=b"[1", headers={"content-type": "application/json"}), 64),
        ],
        ids=["refused", "stream", "silent", "garbage"],
    )
    async def test_a_refusal_costs_nothing_and_an_answer_without_usage_its_bound(
        self, response: httpx.Response, tokens: int
    ) -> None:
        asked = {"model": "gpt-4o", "max_tokens": 20}

        result = await self.calling(lambda request: response, asked)

        size = len(json.dumps(asked, separators=(",", ":")))
        assert result.total_tokens == (0 if tokens == 0 else size + 20)

    @pytest.mark.parametrize("asked", [{"no": "model"}, "text", [1]])
    async def test_a_request_without_a_model_is_left_alone(self, asked: Any) -> None:
        result = await self.calling(lambda request: httpx.Response(200, json=BODIES["openai"]), asked)

        assert (result.output, result.total_tokens) == (200, 0)

    async def test_outside_of_steps_nothing_is_metered(self) -> None:
        assert current_step_run() is None
        async with self.client(lambda request: httpx.Response(200, json=BODIES["openai"])) as client:
            assert (await client.post("/", json={"model": "gpt-4o"})).status_code == 200

    def test_a_body_without_usage_says_nothing(self) -> None:
        assert read_usage({}) is None


async def test_the_attempt_is_known_to_code_that_is_not_handed_it() -> None:
    async def outer(data: Any) -> str:
        run = current_step_run()
        return run.path if run is not None else "none"

    def sync(data: Any) -> str:
        run = current_step_run()
        return f"{data} {run.path if run is not None else 'none'}"

    pipeline = Pipeline([Step.from_callable(outer), Step.from_callable(sync, timeout_s=5)])

    assert (await Flujo(pipeline).run_async("x")).output == "0 1"


def test_an_agent_whose_model_is_metered_is_not_metered_twice() -> None:
    assert "model" not in options_of(Agent(MeteredModel(TestModel())), None, {})
    assert isinstance(options_of(Agent(TestModel()), None, {})["model"], MeteredModel)
