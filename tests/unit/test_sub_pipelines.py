"""Sub-pipelines in process: each step of theirs is one of the run; contexts are inherited or isolated."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from flujo_client import (
    ConfigurationError,
    ContextInheritanceError,
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RunStatus,
    Step,
    StepRun,
    UsageLimits,
    step,
)


class Counter(PipelineContext):
    counter: int = 0


class Narrow(BaseModel):
    counter: int = 0


@step
async def count(number: int, *, context: Counter) -> int:
    context.counter += 1
    return number + 1


@step
async def pay(number: int, *, run: StepRun) -> int:
    run.usage.add(tokens=10, cost_usd=0.5)
    return number


def test_a_pipeline_in_a_pipeline_in_a_pipeline_runs_each_step_at_its_own_path() -> None:
    seen: list[str] = []

    async def note(number: int, *, run: StepRun) -> int:
        seen.append(run.path)
        return number + 1

    leaf: Step[int, int] = Step.from_callable(note, name="leaf")
    pipeline = Pipeline([leaf])
    for depth in range(3):
        pipeline = Pipeline([leaf, pipeline.as_step(f"level{depth}"), leaf])

    result = Flujo(pipeline).run(0)

    assert result.output == 7
    assert seen == ["0", "1.0.0", "1.0.1.0.0", "1.0.1.0.1.0.0", "1.0.1.0.2", "1.0.2", "2"]
    assert [part.name for part in result.step_history] == ["leaf", "level2", "leaf"]
    assert [part.name for part in result.step_history[1].step_history] == ["leaf", "level1", "leaf"]


def test_an_inherited_context_is_changed_for_what_follows() -> None:
    pipeline = Pipeline([count, Pipeline([count, count]).as_step("inner"), count])

    result = Flujo(pipeline, context_model=Counter).run(0)

    assert (result.output, result.final_pipeline_context.counter) == (4, 4)


def test_an_isolated_context_starts_afresh_and_ends_with_its_pipeline() -> None:
    seen: list[int] = []

    async def look(number: int, *, context: Counter) -> int:
        seen.append(context.counter)
        context.counter += 10
        return number

    inner = Pipeline([Step.from_callable(look), Step.from_callable(look, name="again")])
    pipeline = Pipeline([count, inner.as_step("inner", inherit_context=False, context_model=Counter), count])

    result = Flujo(pipeline, context_model=Counter).run(0)

    assert seen == [0, 10]
    assert result.final_pipeline_context.counter == 2


def test_the_model_of_a_nested_runner_holds_for_steps_that_declare_none() -> None:
    class Child(PipelineContext):
        seen: int = 0

    async def tell(number: int) -> dict[str, int]:
        return {"seen": number}

    inner = Flujo(Pipeline([Step.from_callable(tell, updates_context=True)]), context_model=Child)
    pipeline = Pipeline([inner.as_step("inner", inherit_context=False)])

    class Strict(BaseModel):
        wanted: str

    result = Flujo(pipeline, context_model=Strict, initial_context_data={"wanted": "x"}).run(5)

    nested = result.output
    assert isinstance(nested, PipelineResult)
    assert (nested.final_pipeline_context.seen, result.final_pipeline_context) == (5, Strict(wanted="x"))


def test_a_nested_runner_gives_its_result_and_its_cost_counts_once() -> None:
    inner = Flujo(Pipeline([pay, count, pay.model_copy(update={"name": "pay2"})]))
    pipeline = Pipeline([inner.as_step("inner")])

    result = Flujo(pipeline, context_model=Counter, usage_limits=UsageLimits(total_cost_usd_limit=1.0)).run(1)

    nested = result.output
    assert isinstance(nested, PipelineResult)
    assert (nested.output, nested.total_cost_usd, nested.total_tokens) == (2, 1.0, 20)
    assert [part.name for part in nested.step_history] == ["pay", "count", "pay2"]
    assert nested.step_history[1].output == 2
    assert nested.final_pipeline_context.counter == 1
    assert (result.total_cost_usd, result.total_tokens) == (1.0, 20)
    assert (result.step_history[0].cost_usd, result.final_pipeline_context.counter) == (1.0, 1)


def test_fields_that_the_context_around_lacks_are_named() -> None:
    class Wanting(PipelineContext):
        customer: str
        order: int

    inner = Flujo(Pipeline([count]), context_model=Wanting)

    with pytest.raises(ContextInheritanceError) as raised:
        Flujo(Pipeline([inner.as_step("inner")]), context_model=Counter).run(0)

    assert raised.value.missing_fields == ["customer", "order"]
    assert "counter" in raised.value.parent_context_keys
    assert raised.value.child_model_name == "Wanting"


def test_initial_data_fills_what_is_not_inherited() -> None:
    class Wanting(PipelineContext):
        customer: str
        counter: int = 0

    async def greet(number: int, *, context: Wanting) -> str:
        return f"{context.customer} {context.counter}"

    inner = Flujo(
        Pipeline([Step.from_callable(greet)]),
        context_model=Wanting,
        initial_context_data={"customer": "Ada", "counter": 99},
    )

    result = Flujo(Pipeline([count, inner.as_step("inner")]), context_model=Counter).run(0)

    assert result.output.output == "Ada 1"


def test_a_failing_step_fails_the_pipelines_around_it() -> None:
    @step(max_retries=0)
    async def fail(number: int) -> int:
        raise ValueError("no")

    result = Flujo(Pipeline([Pipeline([Pipeline([fail]).as_step("a")]).as_step("b"), count])).run(0)

    assert result.status is RunStatus.FAILED
    assert [part.name for part in result.step_history] == ["b"]
    assert "no" in (result.step_history[0].feedback or "")


def test_a_pipelines_types_are_those_of_its_ends() -> None:
    @step
    async def words(text: str) -> list[str]:
        return text.split()

    with pytest.raises(ValueError, match="Type mismatch between steps 'inner'"):
        Pipeline([Pipeline([words]).as_step("inner"), count])


@pytest.mark.parametrize("terms", [{"usage_limits": UsageLimits(total_tokens_limit=1)}, {"resources": object()}])
def test_a_nested_runners_limits_and_resources_are_refused(terms: dict[str, object]) -> None:
    inner = Flujo(Pipeline([count]), **terms)  # type: ignore[arg-type]  # one of several keywords

    with pytest.raises(ConfigurationError, match="would be ignored"):
        inner.as_step("inner")


def test_a_context_keeps_what_a_narrower_model_does_not_know() -> None:
    async def narrow(number: int, *, context: Narrow) -> int:
        context.counter += 1
        return number

    steps: list[Step[int, int]] = [Step.from_callable(narrow, name=f"n{index}") for index in range(10)]

    result = Flujo(Pipeline(steps), context_model=Counter, initial_context_data={"status": "kept"}).run(0)

    assert result.final_pipeline_context.counter == 10
    assert result.final_pipeline_context.initial_prompt == "0"
