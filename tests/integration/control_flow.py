"""Pipelines with loops and conditions, for workers and for the in-process mode alike."""

from __future__ import annotations

from pydantic import BaseModel

from flujo_client import (
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    StateMachineStep,
    Step,
    StepResult,
    StepRun,
    step,
)


class Draft(BaseModel):
    text: str
    score: int = 0


class Notes(PipelineContext):
    rounds: int = 0
    best: int = 0


@step
async def write(draft: Draft, *, context: Notes) -> Draft:
    context.rounds += 1
    return Draft(text=draft.text + "!", score=draft.score + 1)


@step
async def judge(draft: Draft) -> Draft:
    return draft.model_copy(update={"score": draft.score * 2})


def good_enough(draft: Draft, context: Notes) -> bool:
    context.best = max(context.best, draft.score)
    return draft.score >= 14


async def next_draft(draft: Draft, context: Notes, done: int) -> Draft:
    return draft.model_copy(update={"text": f"{draft.text}{done}"})


def verdict(draft: Draft, context: Notes) -> dict[str, object]:
    return {"text": draft.text, "score": draft.score, "rounds": context.rounds}


def is_long(found: dict[str, object], context: Notes) -> bool:
    return len(str(found["text"])) > 4


@step
async def shorten(found: dict[str, object], *, context: Notes) -> str:
    return f"{found['score']} points in {context.rounds} rounds"


@step
async def keep(found: dict[str, object]) -> str:
    return str(found["text"])


def framed(text: str, key: bool, context: Notes) -> str:
    return f"[{text}] {key} {context.best}"


polish = Step.loop_until(
    "polish", write >> judge, good_enough, max_loops=4, iteration_input_mapper=next_draft, loop_output_mapper=verdict
)
choose = Step.branch_on("choose", is_long, {True: shorten, False: keep}, branch_output_mapper=framed)

polished = Pipeline([polish, choose], name="polished")


def at_last(found: object, context: PipelineContext) -> bool:
    raise LookupError("nobody knows")


doubtful = Pipeline([Step.loop_until("doubt", judge, at_last), keep], name="doubtful")


def which(draft: Draft, context: PipelineContext) -> str:
    return draft.text


lost = Pipeline([Step.branch_on("signpost", which, {"left": judge})], name="lost")


@step
async def grow(number: int) -> int:
    return number + 1


def large(number: int, context: PipelineContext) -> bool:
    return number % 10 == 0


nested = Pipeline(
    [
        Step.parallel("both", {"a": Step.loop_until("a", grow, large, max_loops=10), "b": grow}),
    ],
    name="nested",
)


@step
async def sketch(asked: str) -> Draft:
    return Draft(text=asked, score=len(asked))


@step
async def criticise(draft: Draft) -> RefinementCheck:
    return RefinementCheck(is_complete=draft.score > 6, feedback="longer")


def ask_again(asked: str, check: RefinementCheck) -> str:
    return f"{asked} {check.feedback}"


refined = Step.refine_until("refine", sketch, criticise, feedback_mapper=ask_again).named("refined")
never = Step.refine_until("never", sketch, criticise, max_refinements=2).named("never")


@step(max_retries=1)
async def unreliable(number: int) -> int:
    raise ConnectionError("the provider is away")


@step
async def plan_b(number: int) -> int:
    return -number


backed = Pipeline([unreliable.fallback(plan_b), grow], name="backed")


class Order(BaseModel):
    number: int
    tries: int = 0
    next_state: str | None = None


@step
async def check(order: Order) -> Order:
    return order.model_copy(update={"next_state": "pay" if order.number > 0 else "reject"})


@step(max_retries=0)
async def pay(order: Order) -> Order:
    if order.tries == 0:
        raise ConnectionError("the bank is away")
    return order.model_copy(update={"number": order.number * 100})


@step
async def wait(order: Order) -> Order:
    return order.model_copy(update={"tries": order.tries + 1, "next_state": None})


@step
async def reject(order: Order) -> Order:
    return order


def worth_waiting(order: Order, context: PipelineContext) -> bool:
    return order.number < 50


ordering = Pipeline(
    [
        StateMachineStep(
            name="order",
            states={"check": check, "pay": pay, "wait": wait, "reject": reject},
            start_state="check",
            end_states=["reject"],
            transitions=[
                {"from": "pay", "on": "failure", "to": "wait", "when": worth_waiting},
                {"from": "pay", "on": "failure", "to": "reject"},
                {"from": "wait", "to": "pay"},
            ],
        )
    ],
    name="ordering",
)


class Tally(PipelineContext):
    counter: int = 0


@step
async def tally(number: int, *, context: Tally) -> int:
    context.counter += 1
    return number + 1


@step
async def total(inner: PipelineResult) -> int:
    return int(inner.output * 100 + inner.final_pipeline_context.counter)


deep = Pipeline([tally, Pipeline([tally, tally]).as_step("inherited")])
outer = Flujo(deep, context_model=Tally)
layered = Pipeline([tally, outer.as_step("outer"), total], name="layered")
apart = Pipeline([tally, outer.as_step("apart", inherit_context=False), total], name="apart")


def add_up(found: dict[str, int], context: Tally) -> int:
    return sum(found.values()) * 10 + context.counter


def keep_sum(context: Tally, branches: dict[str, Tally]) -> None:
    context.counter = sum(branch.counter for branch in branches.values())


def name_drafts(results: list[StepResult]) -> list[str]:
    return [f"{result.name}: {result.output.text}" for result in results]


@step
async def scribble(draft: Draft) -> Draft:
    return draft


reduced = Pipeline(
    [Step.parallel("sum", {"a": tally, "b": tally >> tally, "c": tally}, reduce=add_up, max_concurrency=2)],
    name="reduced",
)
merged = Pipeline(
    [
        tally,
        Step.parallel("merge", {"a": tally, "b": tally}, merge_strategy=keep_sum, context_include_keys=["counter"]),
    ],
    name="merged",
)
named = Pipeline([Step.parallel("name", {"a": scribble, "b": judge}, reduce=name_drafts)], name="named")


@step
async def counted(number: int, *, context: Tally) -> int:
    context.counter += 1
    return number * 2


@step
async def sum_up(numbers: list[int]) -> int:
    return sum(numbers)


@step(max_retries=0)
async def odd_only(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} is even")
    return number


mapped = Pipeline([Step.map_over("map", counted, iterable_input="numbers"), sum_up], name="mapped")


@step
async def twice(number: int) -> int:
    return number * 2


#: Items of `many` at once.
MANY_AT_ONCE = 100
many = Pipeline([Step.map_over("many", twice, max_concurrency=MANY_AT_ONCE)], name="many")
picky = Pipeline([Step.map_over("picky", odd_only, max_concurrency=2)], name="picky")
lenient = Pipeline([Step.map_over("lenient", odd_only, on_item_failure="none")], name="lenient")


@step
async def choose_branches(number: int) -> list[str]:
    return ["c", "a"] if number > 0 else []


@step(execution_mode="background", max_retries=0)
async def behind(number: int) -> int:
    if number < 0:
        raise ValueError("behind")
    return number * 1000


routed = Pipeline(
    [
        Step.dynamic_parallel_branch("route", choose_branches, {"a": tally, "b": tally, "c": counted}),
        Step.gather("pick", wait_for=["c"]),
    ],
    name="routed",
)
launching = Pipeline([behind, tally], name="launching")


@step
async def costly(draft: Draft, *, run: StepRun) -> Draft:
    run.usage.add(tokens=10)
    return draft.model_copy(update={"score": draft.score + 1})


kept = Pipeline([Step.cached(costly), judge], name="kept")
