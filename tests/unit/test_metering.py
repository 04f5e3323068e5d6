"""Calls of providers inside a step: reserved before they are made, reported after, and stopped where the budget ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelAPIError, ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.settings import ModelSettings

from flujo_client import (
    AppResources,
    Flujo,
    FlujoAgentResult,
    Pipeline,
    PricingNotConfiguredError,
    Step,
    StepConfig,
    StepRun,
    UsageLimitExceededError,
    UsageLimits,
    current_step_run,
)
from flujo_client.metering.model_agents import MeteredModel, make_agent_async, options_of
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

    async def test_a_report_after_the_attempts_end_replaces_the_bound_that_was_assumed(self) -> None:
        usage = meter(Account(100))
        usage.add(tokens=5)
        call = await usage.begin(tokens=78, requests=1)

        usage.close_calls()
        assumed = usage.used
        call.report(tokens=15, requests=1)
        await call.settle()
        once = usage.used
        call.report(tokens=2)

        assert (assumed, once, usage.used) == (
            {"tokens": 83, "requests": 1},
            {"tokens": 20, "requests": 1},
            {"tokens": 22, "requests": 1},
        )

    async def test_an_extension_that_is_not_answered_leaves_the_reservation_as_it_was(self) -> None:
        class Away(Account):
            async def extend(self, amounts: dict[str, int]) -> dict[str, Any] | None:
                self.asked.append(amounts)
                raise ConnectionError

        account = Away(0)
        usage = meter(account, 30)

        for _ in range(2):
            with pytest.raises(ConnectionError):
                await usage.reserve(tokens=100)
        await usage.reserve(tokens=30)

        assert account.asked == [{"tokens": 70}] * 2


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

    @pytest.mark.parametrize("max_tokens", [None, 5000])
    async def test_a_stream_that_breaks_off_costs_its_bound_and_what_had_come_at_least(
        self, max_tokens: int | None
    ) -> None:
        async def breaking(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
            yield "word " * 300
            raise ModelHTTPError(529, "gpt-4o", in_stream=True)

        settings: ModelSettings = {} if max_tokens is None else {"max_tokens": max_tokens}
        agent = Agent(
            MeteredModel(FunctionModel(stream_function=breaking, model_name="gpt-4o")), model_settings=settings
        )

        async def streaming(data: str) -> str:
            async with agent.run_stream(data) as answer:
                return str(await answer.get_output())

        result = await Flujo(Step.from_callable(streaming, max_retries=0)).run_async("x")

        assert not result.success
        assert result.usage["requests"] == 1
        assert result.total_tokens > (5000 if max_tokens else 300)
        assert result.total_cost_usd > 0

    async def test_an_error_before_the_first_word_of_a_stream_is_a_refusal_unless_the_stream_said_it(self) -> None:
        async def used(error: Exception) -> Counter[str]:
            async def answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
                raise error
                yield ""

            agent = Agent(MeteredModel(FunctionModel(stream_function=answer)), model_settings={"max_tokens": 50})

            async def streaming(data: str) -> None:
                async with agent.run_stream(data):
                    pass

            result = await Flujo(Step.from_callable(streaming, max_retries=0)).run_async("x")
            return +Counter(result.usage)

        assert await used(ModelHTTPError(429, "m")) == {"requests": 1}
        assert (await used(ModelHTTPError(429, "m", in_stream=True)))["tokens"] > 50
        assert (await used(ConnectionError()))["tokens"] > 50

    async def test_of_several_models_that_refuse_each_is_unbilled_and_they_are_paid_for_once(self) -> None:
        def refuse(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise ModelHTTPError(503, "m")

        def broken(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise ModelAPIError("m", "connection lost")

        async def used(*answers: Any) -> Counter[str]:
            models = [MeteredModel(FunctionModel(answer)) for answer in answers]
            agent = Agent(FallbackModel(*models), model_settings={"max_tokens": 50})
            step: Step[Any, Any] = Step(name="s", agent=agent, config=StepConfig(max_retries=0))
            result = await Flujo(step).run_async("x")
            return +Counter(result.usage)

        answering, _ = looping(0)
        assert await used(refuse, refuse) == {"requests": 1}
        assert (await used(refuse, broken))["tokens"] > 50
        assert (await used(refuse, answering.function))["requests"] == 1

    async def test_a_model_that_says_no_usage_costs_its_bound(self) -> None:
        class Silent(FunctionModel):
            async def request(self, *asked: Any) -> ModelResponse:
                return ModelResponse(parts=[TextPart("x")])

        step: Step[Any, Any] = Step(
            name="s", agent=Agent(Silent(lambda *asked: ModelResponse([])), model_settings={"max_tokens": 50})
        )
        result = await Flujo(step).run_async("x")

        assert result.total_tokens > 50

    async def test_existing_code_makes_agents_by_a_function(self) -> None:
        agent = make_agent_async(TestModel(), "be brief", str, max_retries=3, timeout=5)

        assert (await agent.run("x")).output


async def test_what_an_unmetered_agent_says_of_itself_counts_its_requests() -> None:
    async def used(answer: Any) -> int | None:
        async def agent(data: str) -> Any:
            return answer

        return (await Flujo(Step.from_callable(agent)).run_async("x")).usage.get("requests")

    usage = SimpleNamespace(input_tokens=10, output_tokens=5)
    asked_twice = SimpleNamespace(input_tokens=10, output_tokens=5, requests=2)

    assert await used(SimpleNamespace(output="x", usage=usage)) == 1
    assert await used(SimpleNamespace(output="x", usage=lambda: asked_twice)) == 2
    assert await used(SimpleNamespace(output="x", usage=SimpleNamespace(**vars(usage), requests=None))) == 1
    assert await used(SimpleNamespace(cost_usd=0.5, token_counts=3)) == 1
    assert await used(FlujoAgentResult(output="x", cost_usd=0.5, token_counts=3)) == 1
    assert await used("only a string") is None


async def test_a_limit_of_requests_ends_a_run_whose_agents_are_not_metered() -> None:
    async def agent(data: Any) -> Any:
        return SimpleNamespace(output="x", usage=SimpleNamespace(input_tokens=1, output_tokens=1))

    steps: list[Step[Any, Any]] = [Step.from_callable(agent, name=f"s{number}") for number in range(5)]

    with pytest.raises(UsageLimitExceededError) as caught:
        await Flujo(Pipeline(steps), usage_limits=UsageLimits(meters={"requests": 2})).run_async("x")

    assert len(caught.value.result.step_history) == 3


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
