"""What the sentences of docs/parity.md are shown with, in process and on workers: small pipelines of importable functions."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import BaseModel, Field

from flujo_client import Pipeline, PipelineContext, StateMachineStep, Step, StepResult, StepRun, UsageLimits, step


class Notes(PipelineContext):
    count: int = 0
    word: str = "first"
    words: list[str] = Field(default_factory=list)
    items: Any = Field(default_factory=list)


flujo_context_model = Notes


@step(max_retries=0)
async def inc(number: int) -> int:
    return number + 1


@step(max_retries=0)
async def fail(number: int) -> int:
    raise ValueError("no")


@step(max_retries=0)
async def add_one(number: int, *, context: Notes) -> int:
    context.count += 1
    return context.count


@step(max_retries=0)
async def say_a(number: int, *, context: Notes) -> int:
    context.word, context.count = "a", context.count + 1
    return number


@step(max_retries=0)
async def say_b(number: int, *, context: Notes) -> int:
    context.word, context.count = "b", context.count + 1
    return number


@step(max_retries=0)
async def spoil(number: int, *, context: Notes) -> int:
    context.count += 100
    raise ValueError("no")


@step
async def read(number: Any, *, context: Notes) -> list[Any]:
    return [context.word, context.count]


@step
async def when(number: int) -> list[float]:
    begun = time.time()
    await asyncio.sleep(0.05)  # long enough to overlap with whoever runs beside it
    return [begun, time.time()]


@step
async def untyped(data):  # type: ignore[no-untyped-def]  # that is the point
    return data


@step
async def once_a_run(number: int, run: StepRun) -> str:
    return run.run_id


@step
async def set_unknown(number: int, *, context: Notes) -> int:
    context.unheard_of = {"of": number}  # contexts take fields that they do not declare
    return number


@step(max_retries=0, expected_tokens=50)
async def dear(number: int, run: StepRun) -> int:
    run.usage.add(tokens=50)
    return number


async def nearly(number: int, *, run: StepRun) -> int:
    run.usage.add(tokens=18)
    return number


@step(max_retries=1, expected_tokens=6)
async def flaky(number: int, run: StepRun) -> int:
    if run.attempt == 1:
        raise ValueError("not yet")
    run.usage.add(tokens=6)
    return number


@step
async def tell(outputs: Any) -> list[Any]:
    return [_told(outputs[name]) for name in sorted(outputs)]


@step
async def tell_typed(outputs: dict[str, int | StepResult]) -> list[Any]:
    return [_told(outputs[name]) for name in sorted(outputs)]


def _told(output: Any) -> Any:
    if not isinstance(output, StepResult):
        return output
    return [output.name, output.success, len(output.step_history), output.feedback]


class Needy(BaseModel):
    needed: int


async def needs(number: int, *, context: Needy) -> int:
    return number


def never(value: Any, context: Any) -> bool:
    return False


def always(value: Any, context: Any) -> bool:
    return True


def which(value: int, context: Any) -> str:
    return "big" if value > 5 else "small"


def _branches(name: str, branches: dict[str, Any], **terms: Any) -> Pipeline:
    return Pipeline([Step.parallel("both", branches, **terms)], name=name)


both_fail = Pipeline(
    [Step(name="primary", agent=fail.agent).fallback(Step(name="other", agent=fail.agent))], name="both_fail"
)
flows = Pipeline([untyped, untyped], name="flows")
included = _branches("included", {"a": read, "b": read}, context_include_keys=["count"])
siblings = _branches("siblings", {"bad": fail, "good": inc >> inc})
ignoring = _branches("ignoring", {"bad": fail, "good": inc}, on_branch_failure="ignore")
ignored = {
    called: Pipeline(
        [Step.parallel("both", {"bad": bad, "good": inc}, on_branch_failure="ignore"), teller], name=f"ignored_{called}"
    )
    for called, bad, teller in (
        ("step", inc >> fail, tell),
        ("typed", inc >> fail, tell_typed),
        ("loop", Step.loop_until("again", inc, never, max_loops=2), tell),
    )
}
ignored_step, ignored_typed, ignored_loop = ignored.values()
two_fail = _branches("two_fail", {"x": fail, "y": fail, "z": inc})
no_branches = _branches("no_branches", {})
merging = _branches("merging", {"a": add_one, "b": add_one, "bad": spoil}, on_branch_failure="ignore")
conflict = _branches("conflict", {"a": say_a, "b": say_b})
mapped_fields = _branches(
    "mapped_fields", {"a": say_a, "b": say_b}, field_mapping={"a": ["count"], "b": ["word", "count"]}
)
narrow = _branches("narrow", {f"b{place}": when for place in range(4)}, max_concurrency=2)
failing_loop = Pipeline([Step.loop_until("again", fail, never, max_loops=4)], name="failing_loop")
choosing = Pipeline([Step.branch_on("size", which, {"big": add_one, "small": say_b}), read], name="choosing")
no_items = Pipeline([Step.map_over("each", inc, iterable_input="items")], name="no_items")
hopping = Pipeline(
    [
        StateMachineStep.model_validate(
            {
                "name": "hops",
                "states": {"a": inc, "b": inc},
                "start_state": "a",
                "transitions": [{"from": "a", "to": "b"}, {"from": "b", "to": "a"}],
            }
        )
    ],
    name="hopping",
)
uncached = Pipeline([once_a_run], name="uncached")
needy = Pipeline(
    [Pipeline([Step(name="needs", agent=needs)]).as_step("inner", inherit_context=True, context_model=Needy)],
    name="needy",
)
keeping = Pipeline([set_unknown, add_one, read], name="keeping")
spending = Pipeline([inc, dear], name="spending")
warned = Pipeline([Step.from_callable(nearly, name="nearly", expected_tokens=1), inc], name="warned")
refused = Pipeline([inc, fail, inc], name="refused")
doubting = Pipeline([inc, Step.human_in_the_loop("ask", "sure?"), inc], name="doubting")
own_limit = Pipeline([dear.model_copy(update={"usage_limits": UsageLimits(total_tokens_limit=10)})], name="own_limit")
refunded = Pipeline([flaky], name="refunded")
heard = Pipeline([inc, Step.parallel("both", {"a": inc >> fail})], name="heard")
asking = Pipeline(
    [
        Step.loop_until(
            "again",
            Step.branch_on("pick", always, {True: Step.human_in_the_loop("ask", "number?", input_schema=int)}),
            always,
        ),
        Step.human_in_the_loop("sure", "sure?"),
    ],
    name="asking",
)
_falls_back: Step[Any, Any] = Step(name="first", agent=fail.agent).fallback(Step(name="second", agent=inc.agent))
retried = Pipeline([flaky, _falls_back, Step.loop_until("round", inc, always)], name="retried")
