"""Maps: what is mapped over, in which order, how many at once, what a failed item means; and what ten thousand items cost."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
import pytest
from pydantic import BaseModel, Field

from flujo_client import (
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PipelineValidationError,
    RunStatus,
    Step,
    UsageLimits,
)
from flujo_client.execution.draft import MOST_DISPATCHES
from flujo_client.protocol.payloads import evaluate, evaluate_json, expression_fields
from tests.unit.replay import Replay, map_over, step, task_of


class Word(BaseModel):
    text: str


class Book(PipelineContext):
    words: list[Word] = Field(default_factory=list)
    numbers: list[int] = Field(default_factory=list)
    total: int = 0
    text: str = ""


async def double(number: int) -> int:
    return number * 2


async def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


_DOUBLE: Step[Any, Any] = Step.from_callable(double)
_ODD: Step[Any, Any] = Step.from_callable(odd_only, max_retries=0)


def _run(body: Any, items: Any, **options: Any) -> PipelineResult:
    return Flujo(Pipeline([Step.map_over("map", body, **options)]), context_model=Book).run(items)


class TestItems:
    @pytest.mark.parametrize("items", [[1, 2, 3], (1, 2, 3), range(1, 4), (number for number in (1, 2, 3))])
    def test_the_output_is_in_the_order_of_the_items(self, items: Any) -> None:
        assert _run(_DOUBLE, items).output == [2, 4, 6]

    def test_items_may_come_from_the_context(self) -> None:
        async def shout(word: Word) -> str:
            return word.text.upper()

        mapped = Step.map_over("map", Step.from_callable(shout), iterable_input="words")
        data = {"words": [{"text": "a"}, {"text": "b"}]}

        result = Flujo(Pipeline([mapped]), context_model=Book, initial_context_data=data).run("ignored")

        assert result.output == ["A", "B"]

    def test_fields_that_the_model_does_not_declare_may_have_them(self) -> None:
        mapped = Step.map_over("map", _DOUBLE, iterable_input="extra")

        assert Flujo(Pipeline([mapped]), initial_context_data={"extra": [4]}).run(0).output == [8]

    def test_nothing_to_map_over_gives_nothing(self) -> None:
        result = _run(_DOUBLE, [])

        assert (result.status, result.output) == (RunStatus.COMPLETED, [])

    @pytest.mark.parametrize(
        ("items", "options", "story"),
        [
            (0, {"iterable_input": "missing"}, "ValueError: The context has no field 'missing' to map over"),
            (0, {"iterable_input": "text"}, "TypeError: 'text' of the context is a str"),
            (0, {"iterable_input": "total"}, "TypeError: 'total' of the context is a int"),
            ({"a": 1}, {}, "TypeError: its input is a dict"),
        ],
    )
    def test_what_cannot_be_mapped_over_fails_the_step_and_says_why(
        self, items: Any, options: dict[str, Any], story: str
    ) -> None:
        result = _run(_DOUBLE, items, **options)

        assert result.status is RunStatus.FAILED
        assert story in (result.step_history[0].feedback or "")

    def test_a_body_may_be_a_map(self) -> None:
        async def three(number: int) -> list[int]:
            return [number] * 3

        result = _run(Step.from_callable(three) >> Step.map_over("inner", _DOUBLE), [1, 2])

        assert result.output == [[2, 2, 2], [4, 4, 4]]


class TestContext:
    def test_what_items_add_to_a_number_adds_up(self) -> None:
        async def add(number: int, *, context: Book) -> int:
            context.total += number
            context.numbers.append(number)
            return context.total

        result = _run(Step.from_callable(add), list(range(1, 6)))

        assert result.output == [1, 2, 3, 4, 5]  # each on a copy of its own
        assert (result.final_pipeline_context.total, result.final_pipeline_context.numbers) == (15, [1, 2, 3, 4, 5])

    def test_more_items_than_one_step_merges_add_up_too(self) -> None:
        async def add(number: int, *, context: Book) -> int:
            context.total += 1
            return number

        result = _run(Step.from_callable(add), list(range(1_100)), max_concurrency=100)

        assert result.final_pipeline_context.total == 1_100
        assert result.output == list(range(1_100))

    def test_two_items_that_disagree_fail_the_step_and_are_named(self) -> None:
        async def write(number: int, *, context: Book) -> None:
            context.text = f"by {number}"

        result = _run(Step.from_callable(write), [1, 2])

        assert result.status is RunStatus.FAILED
        assert "Branches 'item 0' and 'item 1' set different values" in (result.step_history[0].feedback or "")


class TestFailures:
    def test_a_failed_item_fails_the_step_and_is_named(self) -> None:
        result = _run(_ODD, [1, 2, 3, 4])

        assert result.status is RunStatus.FAILED
        feedback = result.step_history[0].feedback or ""
        assert feedback.startswith("Map 'map': 2 of 4 items failed: item 1: step 'odd_only': ")
        assert "2 is even; item 3: step 'odd_only': " in feedback
        assert result.step_history[0].metadata_ == {"items": 4, "failed_items": [1, 3]}

    def test_no_item_begins_after_a_failure_that_fails_the_step(self) -> None:
        seen: list[int] = []

        async def note(number: int) -> int:
            seen.append(number)
            return await odd_only(number)

        _run(Step.from_callable(note, max_retries=0), list(range(1, 100)), max_concurrency=1)

        assert seen == [1, 2]

    @pytest.mark.parametrize(("handling", "output"), [("none", [1, None, 3, None]), ("skip", [1, 3])])
    def test_a_failed_item_may_be_none_or_nothing(self, handling: str, output: list[int | None]) -> None:
        result = _run(_ODD, [1, 2, 3, 4], on_item_failure=handling)

        assert (result.status, result.output) == (RunStatus.COMPLETED, output)
        assert (result.step_history[0].feedback or "").startswith("Map 'map': 2 of 4 items failed")

    def test_what_items_that_never_began_would_have_spent_goes_back(self) -> None:
        async def pay(value: Any, *, run: Any) -> Any:
            run.usage.add(tokens=10)
            return value

        async def fail(number: int) -> int:
            raise ValueError("no")

        costly: Step[Any, Any] = Step.from_callable(pay, expected_tokens=900)
        failing = Step.map_over("map", Step.from_callable(fail, max_retries=0), max_concurrency=1)
        branches = {"a": failing, "b": Step.parallel("wait", {"x": costly})}
        both = Step.parallel("both", branches, on_branch_failure="ignore", max_concurrency=1)

        result = Flujo(Pipeline([both]), usage_limits=UsageLimits(total_tokens_limit=1_000)).run(list(range(2_000)))

        assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 10)


class TestManyItems:
    def test_no_more_items_than_allowed_run_at_once(self) -> None:
        running, peak = 0, 0

        async def work(number: int) -> int:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1
            return number

        result = _run(Step.from_callable(work), list(range(50)), max_concurrency=7)

        assert (peak, len(result.output)) == (7, 50)

    @pytest.mark.parametrize(("handling", "count"), [("fail", 10_000), ("none", 2_000)])
    def test_ten_thousand_items_are_a_few_messages_and_a_small_state(self, handling: str, count: int) -> None:
        run = Replay(map_over(step("x"), max_concurrency=20, on_item_failure=handling), step("after"))
        run.decided("0!items", count=count)
        in_flight = {dispatch.path for dispatch in run.last.dispatches}
        most, largest = len(in_flight), 0

        while in_flight:
            path = min(in_flight, key=lambda one: int(one.split(".")[1]))
            in_flight.discard(path)
            if handling == "none" and int(path.split(".")[1]) % 2:
                run.fail(path, retryable=False)
            else:
                run.succeed(path)
            in_flight |= {dispatch.path for dispatch in run.last.dispatches if "!" not in dispatch.path}
            most = max(most, len(in_flight))
            largest = max(largest, len(run.nodes["0"].model_dump_json()))
            assert len(run.last.nodes) <= 6

        assert most == 20
        assert largest < 1_500
        assert run.dispatched() == [("0!gather.0", 1)]
        for number in range(count // 500):
            assert len(task_of(run.last).arguments["outputs"]) == 500
            run.succeed(f"0!gather.{number}")
        assert expression_fields(task_of(run.last).expression) == [
            f"out:0!gather.{number}" for number in range(count // 500)
        ]

    def test_more_items_at_once_than_a_script_journals_open_in_slices(self) -> None:
        run = Replay(map_over(step("x"), max_concurrency=2_000))

        run.decided("0!items", count=1_500)

        opened = [path for path, node in run.nodes.items() if node.attempt == 1 and "!" not in path]
        assert len(opened) == 1_500 > MOST_DISPATCHES


@pytest.mark.parametrize(
    ("lists", "whole"), [([[1], [], [2, 3]], [1, 2, 3]), ([[], []], []), ([["a,b"], [None]], ["a,b", None])]
)
def test_lists_are_joined_as_values_and_as_json(lists: list[list[Any]], whole: list[Any]) -> None:
    expression = {"$join": [f"f{number}" for number in range(len(lists))]}
    values = {f"f{number}": part for number, part in enumerate(lists)}

    text = evaluate_json(expression, lambda field: pydantic_core.to_json(values[field]))

    assert evaluate(expression, values.__getitem__) == whole
    assert text is not None
    assert pydantic_core.from_json(text) == whole
    assert evaluate_json(expression, lambda field: None) is None


async def _count(value: Any) -> int:
    return 3


async def _names(value: Any) -> list[str]:
    return ["a"]


def test_a_step_before_a_map_gives_something_that_has_items() -> None:
    body: Step[Any, Any] = Step.from_callable(_count, name="body")

    with pytest.raises(PipelineValidationError, match=r"'_count' \(returns int\) and 'each' \(expects .*Iterable"):
        Step.from_callable(_count) >> Step.map_over("each", body)

    assert Step.from_callable(_names) >> Step.map_over("each", body)
    assert Step.from_callable(_count) >> Step.map_over("each", body, iterable_input="names")
