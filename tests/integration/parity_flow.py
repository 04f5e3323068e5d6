"""Loops, choices, maps, machines, caches and background steps that docs/parity.md is shown with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from flujo_client import Pipeline, PipelineContext, StateMachineStep, Step, StepRun, step
from tests.integration.parity_pipelines import fail, inc


class Tally(PipelineContext):
    n: int = 0
    told: list[Any] = Field(default_factory=list)
    items: Any = Field(default_factory=list)


@step(max_retries=0)
async def count(number: int, *, context: Tally) -> int:
    context.n += 1
    return number + 1


@step(max_retries=0)
async def count_and_fail(number: int, *, context: Tally) -> int:
    context.n += 100
    raise ValueError("no")


@step
async def dear(number: int, run: StepRun) -> int:
    run.usage.add(tokens=8)
    return number + 1


@step
async def show(value: Any, *, context: Tally) -> list[Any]:
    return [value, context.n]


# ---- loops


def from_three(number: int, context: Tally) -> bool:
    return number >= 3


def by_count(number: int, context: Tally) -> bool:
    return context.n >= 2


def never(number: int, context: Tally) -> bool:
    return False


def puzzled(number: int, context: Tally) -> bool:
    raise LookupError("nobody knows")


def first_input(number: int, context: Tally) -> int:
    return number * 10


def broken_input(number: int, context: Tally) -> int:
    raise LookupError("no input")


def next_input(number: int, context: Tally, done: int) -> int:
    return number * 100 + done


def framed(number: int, context: Tally) -> list[int]:
    return [number, context.n]


def _loop(name: str, body: Any, until: Any, *after: Step[Any, Any], **terms: Any) -> Pipeline:
    return Pipeline([Step.loop_until("again", body, until, **terms), *after], name=name)


until_three = _loop("until_three", count >> inc, from_three)
asks_context = _loop("asks_context", count, by_count)
mapped = _loop(
    "mapped",
    count,
    by_count,
    initial_input_to_loop_body_mapper=first_input,
    iteration_input_mapper=next_input,
    loop_output_mapper=framed,
)
at_its_limit = _loop("at_its_limit", count, never, show, max_loops=2)
last_at_its_limit = _loop("last_at_its_limit", count, never, max_loops=2)
body_fails = _loop("body_fails", count >> count_and_fail, never, show)
cannot_decide = _loop("cannot_decide", count, puzzled)
cannot_begin = _loop("cannot_begin", count, never, initial_input_to_loop_body_mapper=broken_input)
spends_too_much = _loop("spends_too_much", dear, never)


# ---- choices


def is_large(number: int, context: Tally) -> bool:
    return number > 5


def as_words(number: int, context: Tally) -> str:
    return "true" if number > 5 else "false"


def by_name(number: int, context: Tally) -> str:
    return {1: "one", 2: "fails"}.get(number, "other")


def tenfold(number: int, context: Tally) -> int:
    return number * 10


def with_key(output: int, key: str, context: Tally) -> list[Any]:
    return [output, key, context.n]


by_truth = Pipeline([Step.branch_on("pick", is_large, {"true": count, "false": inc}), show], name="by_truth")
by_word = Pipeline([Step.branch_on("pick", as_words, {True: count, False: inc}), show], name="by_word")
by_default = Pipeline(
    [
        Step.branch_on(
            "pick",
            by_name,
            {"one": count, "fails": count >> count_and_fail},
            default_branch_pipeline=inc,
            branch_input_mapper=tenfold,
            branch_output_mapper=with_key,
        )
    ],
    name="by_default",
)
lost = Pipeline([Step.branch_on("pick", by_name, {"one": count}), show], name="lost")


# ---- maps

each_of_a_field = Pipeline([Step.map_over("each", count, iterable_input="items")], name="each_of_a_field")
each_of_nothing = Pipeline([Step.map_over("each", count, iterable_input="nowhere")], name="each_of_nothing")


@step(max_retries=0)
async def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


strict_map = Pipeline([Step.map_over("each", odd_only, iterable_input="items")], name="strict_map")
lenient_map = Pipeline(
    [Step.map_over("each", odd_only, iterable_input="items", on_item_failure="none")], name="lenient_map"
)


# ---- state machines


@step
async def to_end(value: Any, *, context: Tally) -> dict[str, Any]:
    context.told.append("start")
    return {"next_state": "end", "value": value}


@step
async def names_itself_stale(value: Any, *, context: Tally) -> dict[str, Any]:
    context.next_state = "stale"
    return {"next_state": "end"}


@step
async def tells_context(value: Any, *, context: Tally) -> str:
    context.told.append("told")
    context.next_state = "end"
    return "by context"


@step
async def ends(value: Any, *, context: Tally) -> list[Any]:
    context.told.append("end")
    return [value, context.told]


def is_five(output: Any, context: Tally) -> bool:
    return bool(output == 5)


def _machine(name: str, states: dict[str, Any], **terms: Any) -> Pipeline:
    built = StateMachineStep.model_validate(
        {"name": "machine", "states": states, "start_state": "start", "end_states": ["end"], **terms}
    )
    return Pipeline([built], name=name)


by_output = _machine("by_output", {"start": to_end, "stale": ends, "end": ends})
not_stale = _machine("not_stale", {"start": names_itself_stale, "stale": ends, "end": ends})
by_context = _machine("by_context", {"start": tells_context, "end": ends})
by_transition = _machine(
    "by_transition",
    {"start": inc, "five": ends, "any": ends, "end": ends},
    transitions=[
        {"from": "start", "on": "failure", "to": "any"},
        {"from": "start", "to": "five", "when": is_five},
        {"from": "start", "to": "end"},
        {"from": "*", "to": "any"},
    ],
)
after_a_failure = _machine(
    "after_a_failure", {"start": fail, "end": ends}, transitions=[{"from": "*", "on": "failure", "to": "end"}]
)
round_and_round = _machine(
    "round_and_round",
    {"start": inc, "other": inc, "end": inc},
    transitions=[{"from": "start", "to": "other"}, {"from": "other", "to": "start"}],
)


# ---- what is kept


class OwnCache:
    """A cache of one's own, as existing code writes them."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.entries.get(key)

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        self.entries[key] = value


class BrokenCache:
    """Does not answer."""

    async def get(self, key: str) -> Any:
        raise ConnectionError("no cache")

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        raise ConnectionError("no cache")


@step(max_retries=0)
async def made_by(number: int, run: StepRun, *, context: Tally) -> str:
    """Says which run made it."""
    context.n += 1
    if number < 0:
        raise ValueError(f"of run {run.run_id}")
    return f"{number} by {run.run_id}"


own_cache = Pipeline([Step.cached(made_by, OwnCache(), name="own")], name="own_cache")
broken_cache = Pipeline([Step.cached(made_by, BrokenCache(), name="broken")], name="broken_cache")
shared_cache = Pipeline([Step.cached(made_by, name="shared")], name="shared_cache")


# ---- in the background


@step(execution_mode="background", max_retries=0)
async def behind(number: int, *, context: Tally) -> int:
    context.n += 1000
    if number < 0:
        raise {-1: ConnectionError, -2: PermissionError, -3: MemoryError, -4: ValueError}.get(number, LookupError)("no")
    return number * 10


launching = Pipeline([behind, show], name="launching")
flujo_context_model = Tally
