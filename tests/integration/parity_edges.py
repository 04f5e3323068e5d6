"""More that the sentences of docs/parity.md are shown with: what happens before, around and after steps, by importable functions."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from flujo_client import (
    FlujoError,
    Pipeline,
    Quota,
    Step,
    StepConfig,
    StepExecutionRequest,
    StepResult,
    StepRun,
    UsageEstimate,
    step,
)
from flujo_client.execution_backend import BackendPolicy
from tests.integration.deeds import deed
from tests.integration.parity_pipelines import Notes, always, fail, inc, say_a


class Outside:
    """Carries out steps that are so named somewhere else; the others here."""

    async def execute_step(self, request: StepExecutionRequest) -> StepResult:
        name = request.step.name
        if name == "outsourced":
            return StepResult(name=name, output=request.input_data * 10, token_counts=7)
        return StepResult(name=name, output=await request.proceed())


@step
async def shout(number: int) -> str:
    return "!" * number


@step
async def half(number: int) -> int:
    return number // 2


@step
async def anything(value: Any) -> Any:
    return value


@step
async def speak(word: str) -> AsyncIterator[str]:
    for letter in word:
        yield letter


@step
async def length(text: str) -> int:
    return len(text)


# ---- composing, wherever it is done


@deed
async def call_in_vain() -> None:
    inc(1)


@deed
async def call_alone() -> Any:
    return await inc.arun(4)


@deed
async def join_with_a_number() -> None:
    inc >> 5  # type: ignore[operator]  # that is the point


@deed
async def join_what_cannot_fit() -> None:
    shout >> half


def circle() -> Pipeline:
    """Two steps that fall back on each other."""
    one: Step[Any, Any] = Step.from_callable(inc.agent, name="one")
    other: Step[Any, Any] = Step.from_callable(inc.agent, name="other", fallback_step=one)
    one.fallback_step = other
    return Pipeline([one], name="circle")


@deed
async def fall_back_in_a_circle() -> None:
    circle().leaves()


def faulty() -> Pipeline:
    """Wrong in five ways, at three depths."""
    return Pipeline(
        [
            Step.parallel("both", {"x": Step(name="deep"), "y": Pipeline()}),
            Step.human_in_the_loop("ask"),
            Step.from_callable(lambda value: value, name="lambda", input_keys=["draft"]),
            Step.branch_on("pick", always, {True: inc, False: Step(name="odd", agent=7)}),
            Pipeline([inc, Step.parallel("deeper", {"good": inc, "bad": length})]).as_step("inner"),
        ],
        name="faulty",
    )


@deed
async def validate_a_graph() -> int:
    return len(faulty().validate_graph().findings)


@deed
async def send_a_quota_away() -> None:
    pickle.dumps(Quota(1.0, 1))


@deed
async def split_among_nobody() -> None:
    Quota(1.0, 10).split(0)


@deed
async def split_without_limits() -> list[Any]:
    return [part.get_remaining()[1] for part in Quota(float("inf")).split(2)]


@deed
async def reserve_a_negative_amount() -> list[Any]:
    quota = Quota(1.0, 10)
    quota.reserve(UsageEstimate(cost_usd=-5, tokens=-5))
    return list(quota.get_remaining())


@deed
async def use_more_than_is_left() -> None:
    quota = Quota(1.0, 10)
    quota.reserve(UsageEstimate(cost_usd=0.4, tokens=4))
    quota.reclaim(UsageEstimate(cost_usd=0.4, tokens=4), UsageEstimate(cost_usd=3.0, tokens=5))


@deed
async def take_back() -> list[Any]:
    quota = Quota(1.0, 10)
    quota.reserve(UsageEstimate(cost_usd=1.0, tokens=10))
    quota.refund(UsageEstimate(cost_usd=0.5, tokens=5))
    return list(quota.get_remaining())


@deed
async def fail_with_advice() -> None:
    raise FlujoError("It broke.", suggestion="Mend it.", code="E7", cause=ValueError("glass"))


# ---- turns, background steps, estimates


class Forgetful:
    """Becomes another agent after its first turn."""

    def __init__(self) -> None:
        self.system_prompt = "work"

    async def run(self, word: Any, *, history: list[Any] | None = None) -> dict[str, Any]:
        self.system_prompt += " harder"
        return {"is_complete": len(history or []) == 2, "final_output": word}


async def at_the_third_try(number: int, run: StepRun) -> int:
    if not run.run_id.endswith(".2"):
        raise ValueError("not yet")
    return number * 100


async def for_ever(number: int) -> int:
    await asyncio.Event().wait()
    return number


class Reply(BaseModel):
    cost_usd: float = 0.25
    token_counts: int = 40


async def replies(number: int) -> Reply:
    return Reply()


class Priced:
    """An agent whose model has a price."""

    model_id = "openai:gpt-4o"

    async def run(self, number: int) -> int:
        return number


@step(max_retries=0, expected_tokens=50)
async def uses(number: int, run: StepRun) -> int:
    run.usage.add(tokens=number)
    return number


def _behind(function: Any) -> Pipeline:
    behind: Step[Any, Any] = Step.from_callable(function, execution_mode="background", max_retries=0)
    return Pipeline([behind, inc], name=function.__name__)


def _with_terms_beside() -> Step[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it warns is shown where nothing imports it
        return Step.from_callable(fail.agent, name="thrice", config=StepConfig(max_retries=5), max_retries=2)


def _deep(levels: int) -> Pipeline:
    """Sub-pipelines, branches, conditionals and loops in one another."""
    pipeline = Pipeline([inc])
    for level in range(levels):
        name = f"level{level}"
        around: list[Step[Any, Any]] = [
            pipeline.as_step(name),
            Step.parallel(name, {"a": pipeline, "b": inc}, reduce=first_output),
            Step.branch_on(name, always, {True: pipeline, False: inc}),
            Step.loop_until(name, pipeline, always),
        ]
        pipeline = Pipeline([around[level % len(around)]], name="deep")
    return pipeline


def first_output(results: list[StepResult]) -> int:
    return int(results[0].output)


named_steps = Pipeline([Step.solution(inc.agent), Step.review(inc.agent), Step.validate_step(inc.agent)], name="fixed")
beside = Pipeline([_with_terms_beside()], name="beside_a_config")
forgetful = Pipeline([Step.granular("work", Forgetful())], name="forgetful")
untiring = _behind(at_the_third_try)
endless = _behind(for_ever)
declared = Pipeline([Step.from_callable(replies, name="declared", expected_tokens=3)], name="declared")
of_its_agent = Pipeline([Step.from_callable(replies, name="of_its_agent")], name="of_its_agent")
of_its_price = Pipeline([Step(name="of_its_price", agent=Priced())], name="of_its_price")
using = Pipeline([uses], name="using")
three_ways = Pipeline([Step.parallel("ways", {name: inc for name in ("a", "b", "c")})], name="three_ways")
misfitting = Pipeline([anything, half], name="misfitting")
unchecked = Pipeline([anything], name="unchecked")
speaking = Pipeline([speak], name="speaking")
outsourced = Pipeline([Step(name="outsourced", agent=half.agent)], name="outsourced")
remembering = Pipeline([say_a, inc], name="remembering")
deep = _deep(30)
broad = Pipeline([Step.parallel("all", {f"b{place}": inc for place in range(1000)})], name="broad")

flujo_context_model = Notes
flujo_policies = [BackendPolicy(Outside())]
