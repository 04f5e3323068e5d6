"""Parallel steps in process: what branches get, how what they made is merged and reduced, and how many run at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from flujo_client import (
    BranchFailureStrategy,
    Flujo,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RunStatus,
    Step,
    StepResult,
    UsageLimits,
)
from flujo_client.protocol.errors import ConfigurationError


class Notes(PipelineContext):
    counter: int = 0
    word: str = ""
    kept: str = "default"


def _sets(**fields: Any) -> Step[Any, Any]:
    async def write(value: Any, *, context: Notes) -> Any:
        for name, new in fields.items():
            setattr(context, name, new)
        return value

    return Step.from_callable(write, name="write")


def _gives(output: Any) -> Step[Any, Any]:
    async def give(value: Any) -> Any:
        return output

    return Step.from_callable(give, name="give")


async def _raise(value: Any) -> Any:
    raise ValueError("no")


def _fails() -> Step[Any, Any]:
    return Step.from_callable(_raise, name="fail", max_retries=0)


def _run(
    branches: dict[str, Any], value: Any = 1, data: dict[str, Any] | None = None, **options: Any
) -> PipelineResult:
    step = Step.parallel("par", branches, **options)
    return Flujo(Pipeline([step]), context_model=Notes, initial_context_data=data).run(value)


class TestContext:
    def test_branches_get_only_the_included_fields_and_defaults_for_the_others(self) -> None:
        seen: dict[str, str] = {}

        async def look(value: Any, *, context: Notes) -> Any:
            seen.update(word=context.word, kept=context.kept)
            context.counter += 1
            return value

        looks: Step[Any, Any] = Step.from_callable(look)
        data = {"word": "here", "kept": "changed", "counter": 4}

        result = _run({"a": looks, "b": looks}, data=data, context_include_keys=["word", "counter"])

        assert seen == {"word": "here", "kept": "default"}
        context = result.final_pipeline_context
        assert (context.counter, context.kept, context.word) == (6, "changed", "here")

    def test_a_field_mapping_cures_a_conflict(self) -> None:
        branches = {"a": _sets(word="x", counter=1), "b": _sets(word="y", counter=2)}

        assert _run(branches).status is RunStatus.FAILED
        result = _run(branches, field_mapping={"a": ["word"], "b": ["counter"]})

        assert (result.final_pipeline_context.word, result.final_pipeline_context.counter) == ("x", 2)

    @pytest.mark.parametrize(("numbers", "counter"), [("sum", 5), ("max", 3)])
    def test_numbers_are_summed_up_or_the_larger_one_wins(self, numbers: str, counter: int) -> None:
        result = _run({"a": _sets(counter=2), "b": _sets(counter=3)}, merge_numbers=numbers)

        assert result.final_pipeline_context.counter == counter

    def test_a_function_merges(self) -> None:
        def merge(context: Notes, branches: dict[str, Notes]) -> None:
            context.word = "+".join(branch.word for branch in branches.values())

        result = _run({"a": _sets(word="x"), "b": _sets(word="y")}, merge_strategy=merge)

        assert result.final_pipeline_context.word == "x+y"

    def test_a_function_may_return_the_merged_context(self) -> None:
        async def merge(context: Notes, branches: dict[str, Notes]) -> Notes:
            return branches["b"]

        result = _run({"a": _sets(word="x"), "b": _sets(word="y")}, merge_strategy=merge)

        assert result.final_pipeline_context.word == "y"

    def test_a_merge_that_raises_fails_the_step_and_says_so(self) -> None:
        def merge(context: Notes, branches: dict[str, Notes]) -> None:
            raise LookupError("lost")

        result = _run({"a": _sets(word="x")}, merge_strategy=merge)

        assert result.status is RunStatus.FAILED
        assert result.step_history[0].feedback == "The merge or the reducer of step 'par' failed with LookupError: lost"


class TestReduce:
    def test_it_gets_results_in_declared_order(self) -> None:
        async def reduce(results: list[StepResult]) -> list[Any]:
            return [(result.name, result.output, result.success) for result in results]

        result = _run({"b": _gives(1), "a": _gives(2)}, reduce=reduce)

        assert result.output == [("par_b", 1, True), ("par_a", 2, True)]

    def test_it_may_take_the_outputs_and_the_context(self) -> None:
        def reduce(outputs: dict[str, Any], context: Notes) -> int:
            context.word = "reduced"
            return int(outputs["a"]) * 10 + int(outputs["b"]) + context.counter

        result = _run({"a": _sets(counter=100) >> _gives(1), "b": _gives(2)}, reduce=reduce)

        assert (result.output, result.final_pipeline_context.word) == (112, "reduced")
        assert result.final_pipeline_context.counter == 100

    @pytest.mark.parametrize(
        "reduce",
        [
            lambda found: sum(found.values()),
            lambda found: sum(result.output for result in found),
            lambda found: found["a"] + found["b"],
            lambda found: sum(output for _, output in found.items()),
            lambda found: sum(dict(found)[name] for name in found.keys()),  # noqa: SIM118  # iteration gives results
        ],
    )
    def test_what_says_nothing_may_treat_them_as_results_or_as_outputs(self, reduce: Any) -> None:
        assert _run({"a": _gives(1), "b": _gives(2)}, reduce=reduce).output == 3

    def test_it_may_return_a_result(self) -> None:
        def reduce(results: list[StepResult]) -> StepResult:
            return StepResult(name="reduced", output=7, feedback="fine", metadata_={"of": len(results)})

        first = _run({"a": _gives(1), "b": _gives(2)}, reduce=reduce).step_history[0]

        assert (first.output, first.feedback) == (7, "fine")
        assert first.metadata_ == {"executed_branches": ["a", "b"], "of": 2}

    def test_a_result_that_is_no_success_fails_the_step(self) -> None:
        def reduce(results: list[StepResult]) -> StepResult:
            return StepResult(name="reduced", success=False, feedback="too few")

        result = _run({"a": _gives(1)}, reduce=reduce)

        assert (result.status, result.step_history[0].feedback) == (RunStatus.FAILED, "too few")

    def test_what_it_raises_fails_the_step_and_says_so(self) -> None:
        def reduce(results: list[StepResult]) -> int:
            return int(results[0].output / 0)

        result = _run({"a": _gives(1)}, reduce=reduce)

        assert result.status is RunStatus.FAILED
        feedback = result.step_history[0].feedback
        assert feedback == "The merge or the reducer of step 'par' failed with ZeroDivisionError: division by zero"

    def test_it_sees_the_branches_that_failed_and_are_ignored(self) -> None:
        def reduce(results: list[StepResult]) -> list[Any]:
            return [(result.success, result.output) for result in results]

        branches = {"a": _gives(1), "b": _fails()}
        result = _run(branches, reduce=reduce, on_branch_failure=BranchFailureStrategy.IGNORE)

        assert result.output == [(True, 1), (False, None)]

    def test_what_follows_gets_what_it_made(self) -> None:
        step = Step.parallel("par", {"a": _gives(1), "b": _gives(2)}, reduce=lambda found: sum(found.values()))

        async def double(number: int) -> int:
            return number * 2

        assert Flujo(Pipeline([step, Step.from_callable(double)])).run(0).output == 6


class TestFailures:
    def test_no_branches_fail_the_step(self) -> None:
        result = _run({})

        assert (result.status, result.step_history[0].feedback) == (RunStatus.FAILED, "Parallel step has no branches")

    @pytest.mark.parametrize(
        ("branches", "strategy", "success", "feedback"),
        [
            ({"a": _gives(1), "b": _gives(2)}, "propagate", True, "All 2 branches executed successfully"),
            (
                {"a": _gives(1), "b": _fails()},
                "ignore",
                True,
                "Parallel step completed with 1 branch failures (ignored)",
            ),
            (
                {"a": _gives(1), "b": _fails()},
                "propagate",
                False,
                "branch 'b' failed: Pipeline failed - step 'fail' (after 1 attempts): "
                "Agent execution failed with ValueError: no",
            ),
            (
                {"a": _fails(), "b": _fails(), "c": _gives(1)},
                "propagate",
                False,
                "Parallel step failed: 2 of 3 branches failed (1 succeeded). Failures: "
                "branch 'a': step 'fail' (after 1 attempts): Agent execution failed with ValueError: no; "
                "branch 'b': step 'fail' (after 1 attempts): Agent execution failed with ValueError: no",
            ),
        ],
    )
    def test_the_feedback_says_what_became_of_the_branches(
        self, branches: dict[str, Any], strategy: str, success: bool, feedback: str
    ) -> None:
        first = _run(branches, on_branch_failure=BranchFailureStrategy(strategy)).step_history[0]

        assert (first.success, first.feedback) == (success, feedback)
        assert first.metadata_ == {"executed_branches": list(branches)}

    def test_only_branches_that_succeeded_are_merged(self) -> None:
        branches = {"a": _sets(word="x") >> _fails(), "b": _sets(word="y")}

        result = _run(
            branches, on_branch_failure=BranchFailureStrategy.IGNORE, merge_strategy=MergeStrategy.ERROR_ON_CONFLICT
        )

        assert result.final_pipeline_context.word == "y"


class TestConcurrency:
    @pytest.mark.parametrize(("most", "seen"), [(1, 1), (3, 3), (None, 8)])
    def test_no_more_branches_than_allowed_run_at_once(self, most: int | None, seen: int) -> None:
        running, peak = 0, 0

        async def work(value: int) -> int:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            for _ in range(20):
                await asyncio.sleep(0)
            running -= 1
            return value

        branches: dict[str, Step[Any, Any]] = {f"b{index}": Step.from_callable(work) for index in range(8)}

        result = _run(branches, 5, max_concurrency=most)

        assert (peak, result.output) == (seen, {name: 5 for name in branches})

    def test_a_branch_that_waited_for_its_turn_has_its_share_of_the_budget(self) -> None:
        async def pay(value: int, *, run: Any) -> int:
            run.usage.add(tokens=10)
            return value

        step: Step[Any, Any] = Step.from_callable(pay, expected_tokens=10)
        par = Step.parallel("par", {"a": step, "b": step, "c": step}, max_concurrency=1)

        result = Flujo(Pipeline([par]), usage_limits=UsageLimits(total_tokens_limit=30)).run(1)

        assert (result.status, result.total_tokens) == (RunStatus.COMPLETED, 30)

    def test_waiting_branches_begin_although_others_failed(self) -> None:
        result = _run({"a": _fails(), "b": _gives(1), "c": _gives(2)}, max_concurrency=1)

        assert [part.success for part in result.step_history[0].step_history] == [False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": {"$x": _gives(1)}}, "cannot be called '\\$x'"),
        ({"branches": {"": _gives(1)}}, "cannot be called ''"),
        ({"branches": {"a": _gives(1)}, "field_mapping": {"b": ["x"]}}, "names no branches of it: b"),
    ],
)
def test_what_cannot_be_is_refused_when_composed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Step.parallel("par", **options)
