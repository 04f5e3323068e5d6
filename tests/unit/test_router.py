"""Dynamic parallel steps and `Step.gather`, in process: the branches that a router names, on the router's own input."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from flujo_client import (
    DynamicParallelRouterStep,
    Flujo,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RunStatus,
    Step,
    UsageLimits,
)
from tests.unit.replay import Replay, router, step, task_of


class Notes(PipelineContext):
    counter: int = 0


class Branch(Enum):
    B = "b"


async def add(number: int, *, context: Notes) -> int:
    context.counter += 1
    return number + 1


async def pay(number: int, *, run: Any) -> int:
    run.usage.add(tokens=100)
    return number


_ADD: Step[Any, Any] = Step.from_callable(add)
_PAY: Step[Any, Any] = Step.from_callable(pay, expected_tokens=100)


def _run(
    named: Any, branches: dict[str, Any] | None = None, limit: int | None = None, **options: Any
) -> PipelineResult:
    async def choose(number: int) -> Any:
        return named

    made = Step.dynamic_parallel_branch("dyn", choose, branches or {"a": _ADD, "b": _ADD, "c": _ADD}, **options)
    limits = None if limit is None else UsageLimits(total_tokens_limit=limit)
    return Flujo(Pipeline([made]), context_model=Notes, usage_limits=limits).run(1)


@pytest.mark.parametrize(
    ("named", "output", "executed"),
    [
        ("b", {"b": 2}, ["b"]),
        (["c", "a"], {"a": 2, "c": 2}, ["c", "a"]),
        (("a", "nobody", "a"), {"a": 2}, ["a"]),
        (Branch.B, {"b": 2}, ["b"]),
        ([], {}, []),
        (["nobody"], {}, []),
    ],
)
def test_the_branches_that_are_named_run(named: Any, output: dict[str, int], executed: list[str]) -> None:
    result = _run(named)

    first = result.step_history[0]
    assert (result.status, result.output) == (RunStatus.COMPLETED, output)
    assert first.metadata_["executed_branches"] == executed
    assert [part.name for part in first.step_history] == ["dyn_router", *(f"dyn_{name}" for name in output)]
    assert result.final_pipeline_context.counter == len(output)


@pytest.mark.parametrize("named", [7, {"a": 1}, ["a", 7], None])
def test_a_router_that_names_no_branch_fails_the_step(named: Any) -> None:
    result = _run(named)

    assert result.status is RunStatus.FAILED
    assert "A router returns the name of a branch or a list of names" in (result.step_history[0].feedback or "")


def test_a_router_that_raises_fails_the_step() -> None:
    async def choose(number: int) -> str:
        raise LookupError("lost")

    made = Step.dynamic_parallel_branch("dyn", choose, {"a": _ADD})

    result = Flujo(Pipeline([made])).run(1)

    assert (result.status, result.step_history[0].metadata_) == (RunStatus.FAILED, {"executed_branches": []})
    assert "lost" in (result.step_history[0].feedback or "")


@pytest.mark.parametrize("named", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_the_whole_budget_is_there_for_the_branches_that_run(named: list[str]) -> None:
    result = _run(named, {name: _PAY for name in "abc"}, limit=100 * len(named))

    assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 100 * len(named))


def test_the_routers_cost_is_in_the_steps() -> None:
    async def choose(number: int, *, run: Any) -> str:
        run.usage.add(tokens=7)
        return "a"

    made = Step.dynamic_parallel_branch("dyn", choose, {"a": _PAY})

    result = Flujo(Pipeline([made])).run(1)

    assert (result.step_history[0].token_counts, result.total_tokens) == (107, 107)


def test_the_class_merges_nothing_unless_told() -> None:
    async def choose(number: int) -> str:
        return "a"

    made = DynamicParallelRouterStep(name="dyn", router_agent=Step.from_callable(choose), branches={"a": _ADD})

    assert Flujo(Pipeline([made]), context_model=Notes).run(1).final_pipeline_context.counter == 0
    merged = made.model_copy(update={"merge_strategy": MergeStrategy.OVERWRITE})
    assert Flujo(Pipeline([merged]), context_model=Notes).run(1).final_pipeline_context.counter == 1


def test_it_reduces_and_runs_a_few_at_a_time_as_a_parallel_step() -> None:
    result = _run(["a", "b"], reduce=lambda found: sum(found.values()), max_concurrency=1)

    assert result.output == 4


def test_the_shares_of_branches_that_do_not_run_go_back_before_the_others_begin() -> None:
    run = Replay(router("a", "b", "c"), step("after"), limits={"tokens": 30})
    run.succeed("0.0.0")
    assert task_of(run.last).arguments == {"names": ["a", "b", "c"]}

    run.decided("0!pick", names=["b"])

    assert run.dispatched() == [("0.1.1.0", 1)]
    assert task_of(run.last).expression == "input"
    assert [end.chain[0] for end in run.last.branch_ends] == ["0.1.0", "0.1.2"]
    run.succeed("0.1.1.0")
    assert task_of(run.last).expression == {"b": "out:0.1.1.0"}


class TestGather:
    def test_it_picks_keys(self) -> None:
        both = Step.parallel("par", {"a": _ADD, "b": _ADD, "c": _ADD})
        gathered: Step[Any, Any] = Step.gather("some", wait_for=["c", "a"])

        assert Flujo(Pipeline([both, gathered])).run(1).output == {"c": 2, "a": 2}

    @pytest.mark.parametrize(
        ("value", "story"), [([1], "TypeError: gather takes a dict"), ({"a": 1}, "KeyError: 'b, c'")]
    )
    def test_what_is_no_dict_or_lacks_keys_fails_the_step(self, value: Any, story: str) -> None:
        gathered: Step[Any, Any] = Step.gather("some", wait_for=["a", "b", "c"])

        result = Flujo(Pipeline([gathered])).run(value)

        assert story in (result.step_history[0].feedback or "")
