"""Pipelines of importable functions, for test_semantics.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from flujo_client import BranchFailureStrategy, LoopStep, Pipeline, PipelineContext, StateMachineStep, Step, step


class Notes(PipelineContext):
    count: int = 0
    words: list[str] = Field(default_factory=list)


flujo_context_model = Notes


@step(max_retries=0)
async def inc(number: int) -> int:
    return number + 1


@step(max_retries=0)
async def double(number: int) -> int:
    return number * 2


@step(max_retries=0)
async def fail(number: int) -> int:
    raise ValueError("no")


plain = Pipeline([inc, double], name="plain")

half_failed = Pipeline(
    [Step.parallel("both", {"bad": fail, "good": inc}, on_branch_failure=BranchFailureStrategy.PROPAGATE)],
    name="half_failed",
)

nested_failure = Pipeline([Pipeline([half_failed]).as_step("outer")], name="nested_failure")


def never(output: int, context: Any) -> bool:
    return False


def at_once(output: int, context: Any) -> bool:
    return True


def raises(*arguments: Any) -> Any:
    raise KeyError("broken")


def loop_of(name: str, body: Any = inc, exit_condition: Any = never, **mappers: Any) -> Pipeline:
    made: Step[Any, Any] = LoopStep(
        name="rounds", loop_body_pipeline=body, exit_condition_callable=exit_condition, max_loops=2, **mappers
    )
    return Pipeline([made], name=name)


LOOPS = {
    "condition": loop_of("loop_condition", exit_condition=at_once),
    "max_loops": loop_of("loop_max"),
    "exit_condition_error": loop_of("loop_exit", exit_condition=raises),
    "body_step_error": loop_of("loop_body", body=fail),
    "initial_input_mapper_error": loop_of("loop_first", initial_input_to_loop_body_mapper=raises),
    "iteration_input_mapper_error": loop_of("loop_next", iteration_input_mapper=raises),
    "loop_output_mapper_error": loop_of("loop_output", exit_condition=at_once, loop_output_mapper=raises),
}
loop_condition, loop_max, loop_exit, loop_body, loop_first, loop_next, loop_output = LOOPS.values()

ending = Pipeline(
    [
        inc,
        StateMachineStep(
            name="machine",
            states={"work": Pipeline([inc])},
            start_state="work",
            end_states=["done"],
            transitions=[{"from": "work", "to": "done"}],
        ),
        double,
    ],
    name="ending",
)


class Command(BaseModel):
    question: str


@step
async def command(number: int) -> Command:
    return Command(question="go on?")


asking = Pipeline(
    [command, Step.human_in_the_loop("ask", message_for_user="Well?"), Step.human_in_the_loop("again")], name="asking"
)


class Point(BaseModel):
    x: int
    y: int = 2


@step
async def whole(number: int) -> int:
    return 3


@step
async def real(number: float) -> str:
    return f"{type(number).__name__} {number / 2}"


@step
async def as_dict(data: Any) -> dict[str, Any]:
    return {"x": 1}


@step
async def as_point(point: Point) -> list[Any]:
    return [isinstance(point, Point), point.x, point.y]


widening = Pipeline([whole, real], name="widening")
modelling = Pipeline([as_dict, as_point], name="modelling")
