"""Estimates learned from what attempts have used: opt in, from enough of them, and by nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import ConfigurationError, Flujo, Pipeline, Step, StepRun, UsageLimits, step
from flujo_client.protocol import learned
from flujo_client.protocol.learned import FEWEST_SETTLES, quantile_of
from flujo_client.protocol.traces import TraceSpan


@pytest.mark.parametrize(("quantile", "tokens"), [(0.5, 50), (0.95, 95), (0.951, 96), (1.0, 100), (0.001, 1)])
def test_a_quantile_is_an_amount_that_was_seen_and_so_many_did_not_exceed(quantile: float, tokens: int) -> None:
    settles = [{"tokens": amount} for amount in range(100, 0, -1)]

    assert quantile_of(settles, quantile) == {"tokens": tokens}


def test_a_meter_that_some_did_not_use_counts_as_zero_for_them() -> None:
    assert quantile_of([{"tokens": 5, "pages": 9}, {"tokens": 7}, {"pages": 1}], 0.67) == {"tokens": 7, "pages": 9}
    assert quantile_of([{"tokens": 5, "pages": 9}, {"tokens": 7}, {"pages": 1}], 0.5) == {"tokens": 5, "pages": 1}


class Spending:
    """Two branches of one step that expects 50 tokens and uses 10, on a budget of 60: one must wait for the other."""

    def __init__(self, **terms: Any) -> None:
        self.fails = False

        @step(name="spend", expected_tokens=50, max_retries=0, **terms)
        async def spend(value: int, run: StepRun) -> int:
            if self.fails:
                raise ValueError("before anything was used")
            run.usage.add(tokens=10)
            return value

        both = Step.parallel("both", {"a": spend, "b": spend}, on_branch_failure="ignore")
        self.flujo = Flujo(Pipeline([both], name="spending"), usage_limits=UsageLimits(total_tokens_limit=60))

    async def waited(self) -> bool:
        """Run it; whether a branch had to wait."""
        result = await self.flujo.run_async(1)
        return "flujo.blocked" in {event.name for span in _spans(result.trace_tree) for event in span.events}


def _spans(span: TraceSpan) -> list[TraceSpan]:
    return [span, *(inner for child in span.children for inner in _spans(child))]


@pytest.fixture(autouse=True)
def _always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "_FRESH_S", 0.0)


async def test_after_enough_attempts_what_they_used_is_reserved_instead_of_what_was_expected() -> None:
    spending = Spending(estimate_quantile=0.95)
    async with spending.flujo:
        before = [await spending.waited() for _ in range(FEWEST_SETTLES // 2)]
        after = await spending.waited()

    assert before == [True] * (FEWEST_SETTLES // 2)
    assert not after


async def test_what_was_read_is_taken_for_true_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "_FRESH_S", 3600.0)
    spending = Spending(estimate_quantile=0.95)
    async with spending.flujo:
        assert [await spending.waited() for _ in range(FEWEST_SETTLES)] == [True] * FEWEST_SETTLES


async def test_nothing_is_learned_for_a_step_that_does_not_ask_for_it() -> None:
    spending = Spending()
    async with spending.flujo:
        assert [await spending.waited() for _ in range(FEWEST_SETTLES)] == [True] * FEWEST_SETTLES


async def test_an_attempt_that_failed_before_it_used_anything_teaches_nothing() -> None:
    spending = Spending(estimate_quantile=1.0)
    spending.fails = True
    async with spending.flujo:
        for _ in range(FEWEST_SETTLES):
            await spending.waited()
        spending.fails = False

        assert await spending.waited()


async def test_strict_estimates_want_what_counts_until_something_is_learned() -> None:
    @step(estimate_quantile=0.9)
    async def learning(value: int) -> int:
        return value

    limits = UsageLimits(total_tokens_limit=60, strict_estimates=True)
    with pytest.raises(ConfigurationError, match=r"'learning' \(tokens\)"):
        await Flujo(learning, usage_limits=limits).run_async(1)


@pytest.mark.parametrize("quantile", [0.0, 1.1])
def test_what_is_no_quantile_is_refused(quantile: float) -> None:
    with pytest.raises(ConfigurationError, match="estimate_quantile"):
        step(estimate_quantile=quantile)(_spans)
