"""Estimates read from steps and agents; prices; the bound of a call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent as ModelAgent
from pydantic_ai.models.test import TestModel

from flujo_client import (
    ConfigurationError,
    EstimatorRegistry,
    Flujo,
    PricingNotConfiguredError,
    Step,
    UsageEstimate,
    UsageLimits,
    get_estimator_registry,
    step,
)
from flujo_client.metering.bounds import call_bound
from flujo_client.protocol.pricing import known_price_usd, price_usd


class Reply(BaseModel):
    text: str = ""
    cost_usd: float = 0.25
    token_counts: int = 40


async def replies(data: Any) -> Reply:
    return Reply()


def replies_to(place: str) -> str:
    """A tool."""
    return place


class Agent:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    async def run(self, data: Any) -> Any:
        return data


@pytest.mark.parametrize(
    ("agent", "meta", "estimate"),
    [
        (Agent(), {}, {}),
        (replies, {}, {"cost_nanousd": 250_000_000, "tokens": 40}),
        (replies, {"is_adapter": True}, {}),
        (replies, {"is_validation_step": True}, {}),
        (Agent(model_id="openai:gpt-4o"), {}, {"cost_nanousd": 100_000_000, "tokens": 500}),
        (Agent(model="gpt-3.5-turbo"), {}, {"cost_nanousd": 20_000_000, "tokens": 300}),
        (Agent(model=SimpleNamespace(model_name="tiny")), {}, {}),
        (
            Agent(model_id="openai:gpt-4o", model_settings={"max_tokens": 1000}),
            {},
            {"cost_nanousd": 10_000_000, "tokens": 1000},
        ),
        (Agent(model_id="tiny", max_tokens=50), {}, {"tokens": 50}),
        (Agent(model_id="gpt-4-of-nobody", max_tokens=50), {}, {"cost_nanousd": 100_000_000, "tokens": 50}),
        (
            Agent(model_id="gpt-4o", max_tokens=1000, system_prompt="x" * 400),
            {},
            {"cost_nanousd": 11_000_000, "tokens": 1400},
        ),
    ],
)
def test_an_agent_says_what_an_attempt_may_use(agent: Any, meta: dict[str, Any], estimate: dict[str, int]) -> None:
    made: Step[Any, Any] = Step(name="s", agent=agent, meta=meta)

    assert made.to_leaf().estimate == estimate


def test_the_prompts_and_tools_of_a_model_agent_are_part_of_its_estimate() -> None:
    agent: Any = ModelAgent(TestModel(model_name="gpt-4o"), system_prompt="x" * 400, model_settings={"max_tokens": 50})
    bare: Step[Any, Any] = Step(name="s", agent=agent)
    before = bare.to_leaf().estimate

    agent.tool_plain(replies_to)
    armed: Step[Any, Any] = Step(name="s", agent=agent)

    assert before["tokens"] == 400 + len("{}") + 50
    assert armed.to_leaf().estimate["tokens"] > before["tokens"] + 50
    assert armed.to_leaf().estimate["cost_nanousd"] > before["cost_nanousd"] > 0


def test_what_the_step_declares_comes_before_what_its_agent_says() -> None:
    made: Step[Any, Any] = Step.from_callable(replies, expected_tokens=3, expected_meters={"searches": 2})

    assert made.to_leaf().estimate == {"tokens": 3, "searches": 2}


def test_the_first_rule_that_is_for_a_step_makes_its_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_estimator_registry(), "_rules", [])
    registry = get_estimator_registry()
    registry.register(lambda step: step.name == "special", UsageEstimate(tokens=9))
    registry.register(lambda step: step.name.startswith("s"), lambda step: UsageEstimate(tokens=len(step.name)))
    leaves = [Step.from_callable(replies, name=name).to_leaf() for name in ("special", "some", "other")]

    assert [leaf.estimate["tokens"] for leaf in leaves] == [9, 4, 40]
    assert isinstance(registry, EstimatorRegistry)


@pytest.mark.parametrize(
    ("model", "provider", "price"),
    [
        ("gpt-4o", None, 0.0075),
        ("openai:gpt-4o", None, 0.0075),
        ("gpt-4o", "openai", 0.0075),
        ("gpt-4o", "function", 0.0075),
        ("nobody-knows-it", "openai", None),
    ],
)
def test_a_price_is_found_by_the_models_name(model: str, provider: str | None, price: float | None) -> None:
    assert known_price_usd(model, provider, 1000, 500) == (None if price is None else pytest.approx(price))


def test_what_has_no_price_costs_nothing_or_is_an_error() -> None:
    assert price_usd(None, None, 1, 1, strict=False) == 0.0
    with pytest.raises(PricingNotConfiguredError, match="does not name its model"):
        price_usd(None, None, 1, 1, strict=True)


def test_the_bound_of_a_call_holds_where_the_answer_is_bounded_and_is_a_guess_where_not() -> None:
    assert call_bound("gpt-4o", None, 400, 100) == {"tokens": 500, "cost_usd": pytest.approx(0.002)}
    assert call_bound("gpt-4o", None, 400, None) == {"tokens": 100, "cost_usd": pytest.approx(0.00025)}
    assert call_bound("tiny", None, 400, 100) == {"tokens": 500, "cost_usd": 0.0}


@step
async def unknown(data: int) -> int:
    return data


@step(expected_tokens=5, expected_cost_usd=0.0)
async def known(data: int) -> int:
    return data


STRICT = UsageLimits(total_tokens_limit=100, total_cost_usd_limit=1.0, strict_estimates=True)


class TestStrictEstimates:
    def test_steps_without_an_estimate_under_a_limit_are_refused_before_anything_runs(self) -> None:
        ran: list[int] = []

        @step(expected_tokens=1)
        async def first(data: int) -> int:
            ran.append(data)
            return data

        pipeline = first >> Step.parallel("both", {"a": known, "b": unknown})
        with pytest.raises(ConfigurationError) as caught:
            Flujo(pipeline, usage_limits=STRICT).run(1)

        assert ran == []
        assert caught.value.data["lacking"] == {"first": ["cost_nanousd"], "unknown": ["cost_nanousd", "tokens"]}
        assert "'unknown' (cost_nanousd, tokens)" in str(caught.value)

    def test_without_the_wish_or_without_a_limit_they_run(self) -> None:
        assert Flujo(unknown, usage_limits=STRICT.model_copy(update={"strict_estimates": False})).run(1).output == 1
        assert Flujo(unknown, usage_limits=UsageLimits(strict_estimates=True)).run(1).output == 1

    def test_a_zero_that_was_said_is_an_estimate_and_adapters_need_none(self) -> None:
        limits = STRICT.model_copy(update={"meters": {"pages": 3}})
        counted: Step[Any, Any] = Step.from_callable(
            unknown.agent, name="counted", expected_tokens=0, expected_cost_usd=0, expected_meters={"pages": 0}
        )
        adapter: Step[Any, Any] = Step.from_callable(
            unknown.agent, name="adapter", is_adapter=True, adapter_id="a", adapter_allow="b"
        )

        assert counted.to_leaf().estimate == {"cost_nanousd": 0, "tokens": 0, "pages": 0}
        assert Flujo(counted >> adapter, usage_limits=limits).run(1).output == 1

    def test_what_a_step_falls_back_on_needs_one_as_well(self) -> None:
        careful: Step[Any, Any] = Step.from_callable(
            known.agent, name="careful", expected_tokens=1, expected_cost_usd=0
        )

        with pytest.raises(ConfigurationError, match="'unknown'"):
            Flujo(careful.fallback(unknown), usage_limits=STRICT).run(1)

    def test_a_step_may_ask_for_it_itself(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'unknown' \(cost_nanousd, tokens\)"):
            Flujo(Step(name="unknown", agent=unknown.agent, usage_limits=STRICT)).run(1)


def test_a_rule_says_every_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_estimator_registry(), "_rules", [])
    get_estimator_registry().register(lambda step: True, UsageEstimate(tokens=9, meters={"pages": 2}))

    assert unknown.to_leaf().estimate == {"cost_nanousd": 0, "tokens": 9, "pages": 2}
    assert UsageEstimate(tokens=9, meters={"pages": 2, "none": 0}).amounts() == {"tokens": 9, "pages": 2}
