"""Parallel steps and routers that docs/parity.md is shown with: what branches get, give and merge."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import Field

from flujo_client import MergeStrategy, Pipeline, PipelineAbortSignal, PipelineContext, Step, StepResult, StepRun, step


class Board(PipelineContext):
    n: int = 1
    seen: bool = False
    word: str = "first"
    words: list[str] = Field(default_factory=lambda: ["old"])
    facts: dict[str, Any] = Field(default_factory=lambda: {"old": 1})


@step
async def first_writes(value: Any, *, context: Board) -> str:
    context.n += 2
    context.seen = True
    context.words.append("a")
    context.facts["a"] = 1
    return "from a"


@step
async def second_writes(value: Any, *, context: Board) -> str:
    context.n += 3
    context.words += ["a", "b"]
    context.facts["b"] = 2
    return "from b"


@step
async def says_x(value: Any, *, context: Board) -> Any:
    context.word, context.words = "x", ["x"]
    return value


@step
async def says_y(value: Any, *, context: Board) -> Any:
    context.word, context.words = "y", ["y"]
    return value


@step
async def lists_x(value: Any, *, context: Board) -> Any:
    context.words = ["x"]
    return value


@step
async def lists_y(value: Any, *, context: Board) -> Any:
    context.words = ["y"]
    return value


@step
async def shows(value: Any, *, context: Board) -> list[Any]:
    """What a branch is given, before it spoils its own copy."""
    given = [value, context.n, list(context.words)]
    context.words.append("spoilt")
    context.n = 99
    return given


@step
async def overlaps(number: int) -> list[float]:
    begun = time.time()
    await asyncio.sleep(0.1)
    return [begun, time.time()]


@step
async def spends(number: int, run: StepRun) -> int:
    run.usage.add(tokens=number)
    return number


@step(expected_tokens=6)
async def much(number: int, run: StepRun) -> int:
    run.usage.add(tokens=6)
    return number


@step(expected_tokens=1)
async def little(number: int, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return number


@step
async def overspends(number: int, run: StepRun) -> int:
    run.usage.add(tokens=1000)
    return number


@step
async def for_ever(number: int) -> int:
    await asyncio.Event().wait()
    return number


@step
async def aborts(number: int) -> int:
    raise PipelineAbortSignal("enough")


@step
async def slow(value: Any) -> str:
    await asyncio.sleep(0.15)
    return "slow"


@step
async def slower(value: Any) -> str:
    await asyncio.sleep(0.3)
    return "slower"


@step
async def quick(value: Any) -> str:
    return "quick"


def tells_results(results: list[StepResult]) -> list[Any]:
    return [[result.name, result.output] for result in results]


def tells_outputs(outputs: dict[str, Any], context: Board) -> list[Any]:
    return [list(outputs), context.n]


async def tells_later(results: list[StepResult]) -> int:
    await asyncio.sleep(0)
    return len(results)


def gives_a_result(results: list[StepResult]) -> StepResult:
    return StepResult(name="reduced", output=len(results), feedback="reduced")


def breaks(results: list[StepResult]) -> int:
    raise LookupError("no sum")


def joins(context: Board, branches: dict[str, Board]) -> None:
    context.word = "+".join(f"{name}:{branch.word}" for name, branch in branches.items())


_WRITERS: dict[str, Any] = {"a": first_writes, "b": second_writes}
_SAYERS: dict[str, Any] = {"a": says_x, "b": says_y}
_LISTERS: dict[str, Any] = {"a": lists_x, "b": lists_y}


def _both(name: str, branches: dict[str, Any], **terms: Any) -> Pipeline:
    return Pipeline([Step.parallel("both", branches, **terms)], name=name)


#: Two branches that disagree, and two whose lists do, by merge strategy.
strategies = {
    f"{what}_{strategy.value}": _both(f"{what}_{strategy.value}", branches, merge_strategy=strategy)
    for what, branches in (("say", _SAYERS), ("write", _WRITERS), ("list", _LISTERS))
    for strategy in MergeStrategy
}
globals().update({f"merge_{name}": pipeline for name, pipeline in strategies.items()})
largest = _both("largest", _WRITERS, merge_numbers="max")
by_function = _both("by_function", _SAYERS, merge_strategy=joins)
copies = _both("copies", {"a": shows, "b": shows}, merge_strategy="no_merge")
reversed_ends = _both("reversed_ends", {"z": slower, "m": slow, "a": quick})
crowd = _both("crowd", {f"b{place}": overlaps for place in range(6)})
reduced = {
    name: _both(f"reduced_{name}", _WRITERS, reduce=function)
    for name, function in {
        "results": tells_results,
        "outputs": tells_outputs,
        "later": tells_later,
        "result": gives_a_result,
        "breaking": breaks,
    }.items()
}
globals().update({f"reduce_{name}": pipeline for name, pipeline in reduced.items()})
sharing = Pipeline([Step.parallel("both", {"a": much, "b": little})], name="sharing")
half_done = _both("half_done", {"good": spends, "bad": overspends})
aborting = _both("aborting", {"stays": for_ever, "ends": aborts})


@step
async def names_one(value: Any) -> str:
    return "a"


@step
async def names_some(value: Any) -> list[str]:
    return ["nobody", "b", "a", "b"]


@step
async def names_nobody(value: Any) -> list[str]:
    return ["nobody"]


@step(max_retries=0)
async def names_a_number(value: Any) -> Any:
    return 7


@step(max_retries=0)
async def names_dearly(value: Any, run: StepRun) -> str:
    run.usage.add(tokens=11)
    return "a"


routes = {
    router.name: Pipeline(
        [Step.dynamic_parallel_branch("route", router, {"a": first_writes, "b": second_writes})],
        name=f"route_{router.name}",
    )
    for router in (names_one, names_some, names_nobody, names_a_number, names_dearly)
}
globals().update({f"route_{name}": pipeline for name, pipeline in routes.items()})
mergeless = Pipeline(
    [Step.dynamic_parallel_branch("route", names_one, {"a": first_writes}, merge_strategy="no_merge")], name="mergeless"
)
flujo_context_model = Board
