"""Pipelines whose every callable looks at `context.step_outputs`, for test_step_outputs.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flujo_client import (
    LoopStep,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    PluginOutcome,
    StateMachineStep,
    Step,
    StepResult,
    ValidationResult,
    step,
)


class Seen(PipelineContext):
    seen: dict[str, Any] = Field(default_factory=dict)
    items: list[int] = Field(default_factory=lambda: [1, 2])


flujo_context_model = Seen


class Page(BaseModel):
    text: str


def look(context: Any, place: str) -> dict[str, Any]:
    """Note what a place sees: a helper, of which no step's own code knows what it reads."""
    context.seen[place] = dict(context.step_outputs)
    return dict(context.step_outputs)


@step
async def page(data: Any) -> Page:
    return Page(text=f"page {data}")


@step
async def number(data: Any) -> int:
    return 4


@step
async def by_helper(data: Any, *, context: Seen) -> int:
    look(context, "helper")
    return 5


@step
async def nested(data: Any, *, context: Seen) -> list[Any]:
    def inner() -> Any:
        return context.step_outputs["number"]

    return [inner(), *(context.step_outputs[name] for name in ("number", "by_helper"))]


@step
async def typed(data: Any, *, context: Seen) -> str:
    found = context.step_outputs["page"]
    assert isinstance(found, Page)
    return found.text


@step
async def dumped(data: Any, *, context: Seen) -> list[str]:
    return sorted(context.model_dump()["step_outputs"])


bodies = Pipeline([page, number, by_helper, nested, typed, dumped], name="bodies")


def choose(data: Any, context: Seen) -> str:
    look(context, "condition")
    return "left"


def into(data: Any, context: Seen) -> Any:
    look(context, "input mapper")
    return data


def out_of(output: Any, key: str, context: Seen) -> Any:
    look(context, "output mapper")
    return output


@step
async def left(data: Any) -> str:
    return "left"


@step
async def last(data: Any, *, context: Seen) -> Any:
    look(context, "last")
    return data


conditions = Pipeline(
    [
        number,
        Step.branch_on(
            "fork",
            condition_callable=choose,
            branches={"left": left, "right": page},
            branch_input_mapper=into,
            branch_output_mapper=out_of,
        ),
        last,
    ],
    name="conditions",
)


@step
async def count(data: int) -> int:
    return data + 1


def done(output: int, context: Seen) -> bool:
    look(context, f"exit {output}")
    return bool(context.step_outputs["count"] >= 6)


def again(output: int, context: Seen, iteration: int) -> int:
    look(context, f"mapper {iteration}")
    return output


def told(output: int, context: Seen) -> int:
    look(context, "loop output")
    return output * 10


loops = Pipeline(
    [
        number,
        LoopStep(
            name="rounds",
            loop_body_pipeline=Pipeline([count, last]),
            exit_condition_callable=done,
            max_loops=5,
            iteration_input_mapper=again,
            loop_output_mapper=told,
        ),
        Step.from_callable(last.agent, name="after"),
    ],
    name="loops",
)


def merge(context: Seen, branches: dict[str, Seen]) -> None:
    look(context, "merge")
    for name, branch in branches.items():
        context.seen[f"branch {name}"] = dict(branch.step_outputs)


def add(results: list[StepResult], context: Seen) -> int:
    look(context, "reduce")
    return sum(result.output for result in results)


@step
async def one(data: Any) -> int:
    return 1


@step
async def two(data: Any, *, context: Seen) -> int:
    context.seen["in branch"] = sorted(context.step_outputs)
    return 2


branches = Pipeline(
    [
        number,
        Step.parallel("both", {"a": one, "b": Pipeline([left, two])}, merge_strategy=merge, reduce=add),
        last,
    ],
    name="branches",
)


@step(max_retries=0)
async def shielded(data: Any, *, context: Seen) -> int:
    context.seen["in branch"] = sorted(context.step_outputs)
    return 2


narrowed = Pipeline(
    [number, Step.parallel("both", {"a": shielded}, context_include_keys=["seen"]), last],
    name="narrowed",
)


class Validator:
    name = "sees"

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        return ValidationResult(is_valid="number" in context.step_outputs, validator_name="sees")


class Plugin:
    async def validate(self, data: dict[str, Any], *, context: Any = None) -> PluginOutcome:
        return PluginOutcome(success="number" in context.step_outputs)


def holds(output: Any, context: Seen) -> bool:
    return "number" in context.step_outputs


async def plain(data: Any) -> Any:
    return data


attached = Pipeline(
    [
        number,
        Step(
            name="checked",
            agent=plain,
            validators=[Validator()],
            plugins=[(Plugin(), 0)],
            static_invariants=[holds, "context.step_outputs.number == 4"],
        ),
        Step(name="templated", agent=plain, input="{{ context.step_outputs.number }}"),
        Step.human_in_the_loop("ask", message_for_user="Is {{ context.step_outputs.number }} right?"),
        last,
    ],
    name="attached",
)


def ready(output: Any, context: Seen) -> bool:
    return "first" in look(context, "when")


@step
async def first(data: Any) -> str:
    return "first"


@step
async def item(number: int, *, context: Seen) -> int:
    assert context.step_outputs["rank"] == 4
    return number * 2


rank: Step[Any, Any] = Step.from_callable(number.agent, name="rank")

composites = Pipeline(
    [
        rank,
        Step.map_over("each", Pipeline([item]), iterable_input="items"),
        StateMachineStep(
            name="machine",
            states={"s": Pipeline([first]), "e": Pipeline([left])},
            start_state="s",
            end_states=["e"],
            transitions=[{"from": "s", "to": "e", "when": ready}],
        ),
        Pipeline([page, number]).as_step("inherits"),
        last,
    ],
    name="composites",
)


@step
async def writes(data: Any, *, context: Seen) -> int:
    context.step_outputs["mine"] = [1]
    context.step_outputs["number"] = 40
    return 1


overwritten = Pipeline([number, writes, last], name="overwritten")

nothing_merged = Pipeline(
    [
        Step.parallel("both", {"a": one, "b": left}, merge_strategy=MergeStrategy.NO_MERGE),
        Pipeline([number]).as_step("alone", inherit_context=False),
        last,
    ],
    name="nothing_merged",
)
