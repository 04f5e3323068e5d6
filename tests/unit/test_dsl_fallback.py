"""Fallbacks as people write them."""

from __future__ import annotations

import pytest

from flujo_client import Pipeline, Step, step
from flujo_client.protocol.errors import ConfigurationError, InfiniteFallbackError


@step
async def first(number: int) -> int:
    return number


def test_a_step_that_would_fall_back_on_itself_is_refused() -> None:
    one: Step[int, int] = Step(name="one", agent=first.agent)
    other: Step[int, int] = Step(name="other", agent=first.agent)

    with pytest.raises(InfiniteFallbackError, match="Fallback loop detected for step 'other'"):
        other.fallback(one.fallback(other))


def test_composites_neither_have_nor_are_fallbacks() -> None:
    both = Step.parallel("both", {"a": first})

    with pytest.raises(ConfigurationError, match="only a step of a function"):
        Step(name="one", agent=first.agent).fallback(both)


def test_workers_get_the_fallbacks_of_every_depth() -> None:
    async def second(number: int) -> int:
        return number

    backed: Step[int, int] = Step(name="one", agent=first.agent)
    pipeline = Pipeline([Step.parallel("both", {"a": backed.fallback(Step.from_callable(second))})], name="p")

    assert {definition.name for definition in pipeline.step_definitions().values()} == {"one", "second"}
