"""Runs that docs/parity.md is shown with: attempts, pauses, streams and what is told of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, Field

from flujo_client import (
    Flujo,
    FlujoAgentResult,
    FlujoAgentUsage,
    PausedException,
    Pipeline,
    PipelineContext,
    PipelineResult,
    PluginOutcome,
    Step,
    StepRun,
    step,
)
from tests.integration.parity_pipelines import always, inc


class Diary(PipelineContext):
    n: int = 0
    word: str = "first"
    answer: Any = None
    times: list[float] = Field(default_factory=list)


# ---- attempts


@step(max_retries=2, backoff_s=0.2, jitter=False)
async def third_time(number: int, run: StepRun) -> list[float]:
    _TRIES.setdefault(run.run_id, []).append(time.monotonic())
    if run.attempt < 3:
        raise ValueError("not yet")
    return _TRIES[run.run_id]


#: When the attempts began, by run: one process runs them all.
_TRIES: dict[str, list[float]] = {}


class BadRequest(Exception):
    """Is not worth another attempt."""


@step(max_retries=5, never_retry=(BadRequest,))
async def refused_for_good(number: int) -> int:
    raise BadRequest("no")


@step(max_retries=1, timeout_s=0.1)
async def too_slow(number: int) -> int:
    await asyncio.Event().wait()
    return number


async def used_and_failed(number: int, *, run: StepRun) -> int:
    run.usage.add(tokens=3)
    raise ValueError("no")


async def used(number: int, *, run: StepRun) -> int:
    run.usage.add(tokens=4)
    return -number


async def used_and_failed_too(number: int, *, run: StepRun) -> int:
    _FALLBACKS.append(run.run_id)
    raise LookupError("neither")


#: Of whom a fallback has been tried.
_FALLBACKS: list[str] = []


@step
async def fallbacks_of(run_id: Any) -> int:
    return _FALLBACKS.count(run_id)


backing_off = Pipeline([third_time], name="backing_off")
never_retried = Pipeline([refused_for_good], name="never_retried")
timing_out = Pipeline([too_slow], name="timing_out")
falling_back = Pipeline(
    [Step(name="primary", agent=used_and_failed).fallback(Step(name="other", agent=used)), inc], name="falling_back"
)
falling_back_once = Pipeline(
    [Step(name="primary", agent=used_and_failed).fallback(Step(name="other", agent=used_and_failed_too))],
    name="falling_back_once",
)
counting_fallbacks = Pipeline([fallbacks_of], name="counting_fallbacks")


# ---- contexts


@step(updates_context=True)
async def names_unknown(value: Any) -> dict[str, Any]:
    return {"unheard_of": value, "n": 3}


@step(updates_context=True, validate_fields=True)
async def names_unknown_checked(value: Any) -> dict[str, Any]:
    return {"unheard_of": value}


@step(updates_context=True)
async def gives_a_whole_result(value: int) -> PipelineResult:
    return PipelineResult(final_pipeline_context=Diary(n=value, word="of a run"))


@step
async def write(number: int, *, context: Diary) -> int:
    context.n += number
    context.word = "written"
    return number


@step
async def read(value: Any, *, context: Diary) -> list[Any]:
    return [context.n, context.word]


@step
async def read_bare(value: Any, *, context: PipelineContext) -> list[Any]:
    return [context.initial_prompt, context.model_extra, context.run_id]


unknown_fields = Pipeline([names_unknown], name="unknown_fields")
checked_fields = Pipeline([names_unknown_checked], name="checked_fields")
from_a_result = Pipeline([gives_a_whole_result], name="from_a_result")
reading = Pipeline([read], name="reading")
reading_bare = Pipeline([read_bare], name="reading_bare")


@step
async def look_inside(inner: PipelineResult) -> list[Any]:
    return [inner.output, inner.success, inner.final_pipeline_context.n, [part.name for part in inner.step_history]]


_inner = Flujo(Pipeline([write, read]), context_model=Diary)
nested = Pipeline([write, _inner.as_step("inner"), look_inside], name="nested")
nested_apart = Pipeline([write, _inner.as_step("inner", inherit_context=False), look_inside], name="nested_apart")


# ---- pauses


class Approval(BaseModel):
    yes: bool
    why: str = ""


@step
async def asks(number: int, *, context: Diary) -> int:
    context.n = number
    raise PausedException("go on?")


_TEMPLATE = "{{ context.word }} of {{ previous_step }}?"

asking = Pipeline(
    [
        inc,
        Step.human_in_the_loop("ask", _TEMPLATE, sink_to="answer"),
        Step.from_callable(read.agent, name="after"),
    ],
    name="asking_runs",
)
asking_plainly = Pipeline([inc, Step.human_in_the_loop("ask")], name="asking_plainly")
approving = Pipeline([Step.human_in_the_loop("ask", "sure?", input_schema=Approval)], name="approving")
raising = Pipeline([write, asks, read], name="raising")


@step
async def ready(number: int) -> str:
    return "ready"


beside = Pipeline(
    [Step.parallel("both", {"asks": Step.human_in_the_loop("ask", "go?"), "goes": ready}), read], name="beside"
)
in_a_loop = Pipeline(
    [Step.loop_until("round", inc >> Step.human_in_the_loop("ask", "enough?"), always), read], name="in_a_loop"
)


# ---- streams


class Speaker:
    """Speaks, or answers at once."""

    async def run(self, word: str) -> str:
        return f"<{word}>"

    async def stream(self, word: str) -> AsyncIterator[str]:
        for letter in word:
            yield letter


@step
async def speaks_bytes(word: str) -> AsyncIterator[bytes]:
    for letter in word:
        yield letter.encode()


@step
async def speaks_numbers(word: str) -> AsyncIterator[int]:
    for place, _ in enumerate(word):
        yield place


@step
async def speaks_nothing(word: str) -> AsyncIterator[str]:
    for letter in word[:0]:
        yield letter


@step(max_retries=0)
async def breaks_off(word: str) -> AsyncIterator[str]:
    for letter in word:
        yield letter
    raise ConnectionError("hung up")


speaking_twice = Pipeline([Step(name="one", agent=Speaker()), Step(name="two", agent=Speaker())], name="speaking_twice")
speaking_bytes = Pipeline([speaks_bytes], name="speaking_bytes")
speaking_numbers = Pipeline([speaks_numbers], name="speaking_numbers")
speaking_nothing = Pipeline([speaks_nothing], name="speaking_nothing")
breaking_off = Pipeline([breaks_off], name="breaking_off")


# ---- what is told


@step(execution_mode="background")
async def behind(number: int) -> str:
    return "behind"


@step
async def takes_int(number: int) -> int:
    return number + 1


@step(max_retries=0, expected_cost_usd=0.5, expected_tokens=5)
async def costs_both(number: int) -> int:
    return number


@step(max_retries=0)
async def fails(number: int) -> int:
    raise ValueError("no")


class Unpriced:
    """An agent of a model that nobody has a price for."""

    async def run(self, number: int) -> FlujoAgentResult:
        return FlujoAgentResult("x", FlujoAgentUsage(5, 5), model="nobody:knows-it")


def told_before(value: Any, context: Diary) -> bool:
    return bool(context.step_outputs["inc"] == value)


def with_what_was_chosen(value: Any, key: bool, context: Diary) -> list[Any]:
    return [value, key, context.step_outputs["inc"], context.step_outputs["takes_int"]]


class AskAgain:
    """A plugin that is never content."""

    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        return PluginOutcome(success=False, redirect_to=takes_int.agent)


handing_on = Pipeline([behind, takes_int], name="handing_on")
short_of_both = Pipeline([costs_both], name="short_of_both")
failing = Pipeline([inc, fails, inc], name="failing")
plain = Pipeline([inc, takes_int], name="plain")
looping = Pipeline([Step.loop_until("round", inc, always)], name="looping")
gathering = Pipeline([Step.gather("pick", wait_for=["b", "a"])], name="gathering")
unpriced = Pipeline([Step(name="unpriced", agent=Unpriced())], name="unpriced")
reads_outputs = Pipeline(
    [
        inc,
        Step.branch_on("pick", told_before, {True: takes_int, False: fails}, branch_output_mapper=with_what_was_chosen),
    ],
    name="reads_outputs",
)
steered = Pipeline(
    [Step.loop_until("round", Step(name="circular", agent=takes_int.agent, plugins=[AskAgain()]), always)],
    name="steered",
)
flujo_context_model = Diary
