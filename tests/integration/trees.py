"""Pipelines of every kind of node, described as trees; and what they must give, by a small interpreter that knows no engine.

A node turns a number into a number. Some leaves count themselves in the context, or look at that count, so that a context
that is shared or lost where it must not be changes the output; every leaf that returns bills one token.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from flujo_client import (
    Flujo,
    Pipeline,
    PipelineContext,
    PipelineResult,
    RefinementCheck,
    StateMachineStep,
    Step,
    StepRun,
    adapter_step,
    step,
)

START, MOST_LOOPS, MOST_ITEMS = 3, 3, 3

#: What every question is answered with.
ANSWER = 4


class Counter(PipelineContext):
    counter: int = 0


@dataclass(frozen=True)
class Leaf:
    op: str  # add, count, peek, or fail: on multiples of three


@dataclass(frozen=True)
class Seq:
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Par:
    branches: tuple[Any, ...]
    ignore: bool = False
    merge: bool = True
    at_once: int | None = None


@dataclass(frozen=True)
class Loop:
    body: Any
    until: int = 10


@dataclass(frozen=True)
class Cond:
    even: Any
    odd: Any


@dataclass(frozen=True)
class Machine:
    first: Any
    then: Any
    rescue: Any


@dataclass(frozen=True)
class Map:
    body: Any
    failed: str = "fail"


@dataclass(frozen=True)
class Route:
    branches: tuple[Any, ...]


@dataclass(frozen=True)
class Sub:
    body: Any
    inherit: bool = True


@dataclass(frozen=True)
class Behind:
    body: Any


@dataclass(frozen=True)
class Kept:
    body: Any  # a cached step


@dataclass(frozen=True)
class Saved:
    op: str  # a leaf that fails on multiples of three, and falls back on one that adds seven, or on one that fails as well


@dataclass(frozen=True)
class Turns:
    turns: int  # a granular step that adds one in each turn


@dataclass(frozen=True)
class Refine:
    body: Any  # generates; a critic is content from ten on


@dataclass(frozen=True)
class Picked:
    branches: tuple[Any, ...]  # of which the first one's output is gathered


@dataclass(frozen=True)
class Nested:
    body: Any  # of a runner that is a step, with the context around it


@dataclass(frozen=True)
class Adapted:
    pass  # an adapter makes a dict, of which a leaf that adds one takes the number


@dataclass(frozen=True)
class Spoken:
    pass  # a stream of digits, read again


@dataclass(frozen=True)
class Ask:
    pass  # a question; the answer is a number


# ---- as pipelines of the library


@step(max_retries=0)
async def add(number: int, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return number + 1


@step(max_retries=0)
async def count(number: int, *, context: Counter, run: StepRun) -> int:
    run.usage.add(tokens=1)
    context.counter += 1
    return number


@step(max_retries=0)
async def peek(number: int, *, context: Counter, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return number + context.counter


@step(max_retries=0)
async def fail(number: int, run: StepRun) -> int:
    if number % 3 == 0:
        raise ValueError("a multiple of three")
    run.usage.add(tokens=1)
    return number


@step(max_retries=0)
async def spread(number: int, run: StepRun) -> list[int]:
    run.usage.add(tokens=1)
    return [number + offset for offset in range(MOST_ITEMS)]


@step(max_retries=0)
async def total(numbers: list[int | None], run: StepRun) -> int:
    run.usage.add(tokens=1)
    return sum(number for number in numbers if number is not None)


def add_up(outputs: dict[str, Any]) -> int:
    return sum(output for output in outputs.values() if isinstance(output, int))


def at_least_ten(number: int, context: Counter) -> bool:
    return number >= 10


def at_least_five(number: int, context: Counter) -> bool:
    return number >= 5


def is_even(number: int, context: Counter) -> bool:
    return number % 2 == 0


@step(max_retries=0)
async def seven(number: int, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return number + 7


class Turner:
    """Works for some turns, each billed."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Turner) and other.turns == self.turns

    __hash__ = None  # type: ignore[assignment]  # compared, never a key

    async def run(self, number: int, *, run: StepRun, history: list[Any] | None = None) -> dict[str, Any]:
        run.usage.add(tokens=1)
        done = len(history or []) + 1
        return {"is_complete": done == self.turns, "final_output": number + done}


@step(max_retries=0)
async def judge(number: int, run: StepRun) -> RefinementCheck:
    run.usage.add(tokens=1)
    return RefinementCheck(is_complete=number >= 10, feedback=str(number))


def beyond(number: int, check: RefinementCheck) -> int:
    return number + int(check.feedback or 0)


@step(max_retries=0)
async def first_of(outputs: dict[str, int], run: StepRun) -> int:
    run.usage.add(tokens=1)
    return outputs["b0"]


@step(max_retries=0)
async def unwrap_result(inner: PipelineResult, run: StepRun) -> int:
    run.usage.add(tokens=1)
    return int(inner.output)


@adapter_step(adapter_id="named", adapter_allow="numbers")
async def as_dict(number: int) -> dict[str, int]:
    return {"number": number}


@step(max_retries=0)
async def digits(number: int) -> AsyncIterator[str]:
    """Text is a token."""
    for digit in str(number):
        yield digit


@step(max_retries=0)
async def read_digits(text: str) -> int:
    return int(text)


async def final_number(output: Any) -> int:
    return int(output)


async def by_bits(number: int, run: StepRun) -> list[str]:
    run.usage.add(tokens=1)
    return [f"b{place}" for place in reversed(range(4)) if number >> place & 1]


_LEAVES = {"add": add, "count": count, "peek": peek, "fail": fail}


def _step(part: Step[Any, Any] | Pipeline, name: str) -> Step[Any, Any]:
    return part.as_step(name) if isinstance(part, Pipeline) else part


def build(node: Any, name: str = "n") -> Step[Any, Any] | Pipeline:
    """The tree as a step or a pipeline; each node is named by its place."""
    return _BUILDERS[type(node)](node, name)


def _below(parts: tuple[Any, ...], name: str) -> dict[str, Step[Any, Any] | Pipeline]:
    return {f"b{place}": build(part, f"{name}{place}") for place, part in enumerate(parts)}


def _leaf(node: Leaf, name: str) -> Step[Any, Any]:
    return _LEAVES[node.op].model_copy(update={"name": f"{name}{node.op}"})


def _seq(node: Seq, name: str) -> Pipeline:
    return Pipeline([_step(part, f"{name}s{place}") for place, part in _below(node.parts, name).items()])


def _par(node: Par, name: str) -> Step[Any, Any]:
    return Step.parallel(
        name,
        _below(node.branches, name),
        on_branch_failure="ignore" if node.ignore else "propagate",
        merge_strategy="context_update" if node.merge else "no_merge",
        max_concurrency=node.at_once,
        reduce=add_up,
    )


def _loop(node: Loop, name: str) -> Step[Any, Any]:
    until = at_least_ten if node.until == 10 else at_least_five
    return Step.loop_until(name, build(node.body, f"{name}0"), until, max_loops=MOST_LOOPS)


def _cond(node: Cond, name: str) -> Step[Any, Any]:
    return Step.branch_on(name, is_even, {True: build(node.even, f"{name}0"), False: build(node.odd, f"{name}1")})


def _machine(node: Machine, name: str) -> Step[Any, Any]:
    states = dict(
        zip(("first", "then", "rescue"), _below((node.first, node.then, node.rescue), name).values(), strict=True)
    )
    edges = [{"from": "first", "to": "then"}, {"from": "first", "on": "failure", "to": "rescue"}]
    return StateMachineStep.model_validate(
        {"name": name, "states": states, "start_state": "first", "transitions": edges}
    )


def _map(node: Map, name: str) -> Step[Any, Any]:
    mapped = Step.map_over(f"{name}map", build(node.body, f"{name}0"), on_item_failure=node.failed)
    return Pipeline([spread, mapped, total]).as_step(name)


def _route(node: Route, name: str) -> Step[Any, Any]:
    return Step.dynamic_parallel_branch(name, by_bits, _below(node.branches, name), reduce=add_up)


def _sub(node: Sub, name: str) -> Step[Any, Any]:
    inner = build(node.body, f"{name}0")
    pipeline = inner if isinstance(inner, Pipeline) else Pipeline([inner])
    return pipeline.as_step(name, inherit_context=node.inherit, context_model=None if node.inherit else Counter)


def _behind(node: Behind, name: str) -> Step[Any, Any]:
    inner = _step(build(node.body, f"{name}0"), f"{name}0")
    return inner.model_copy(update={"config": inner.config.model_copy(update={"execution_mode": "background"})})


def _kept(node: Kept, name: str) -> Step[Any, Any]:
    return Step.cached(build(node.body, f"{name}0"), name=name, ttl_s=0.001)


def _saved(node: Saved, name: str) -> Step[Any, Any]:
    first = fail.model_copy(update={"name": f"{name}first"})
    return first.fallback((seven if node.op == "seven" else fail).model_copy(update={"name": f"{name}second"}))


def _turns(node: Turns, name: str) -> Step[Any, Any]:
    turns = Step.granular(f"work{node.turns}", Turner(node.turns))  # workers know an object by its class and its step
    return (turns >> Step.from_callable(final_number, name=f"{name}final")).as_step(name)


def _refine(node: Refine, name: str) -> Step[Any, Any]:
    generator = _step(build(node.body, f"{name}0"), f"{name}g")
    critic = judge.named(f"{name}judge")
    refined = Step.refine_until(f"{name}refine", generator, critic, max_refinements=MOST_LOOPS, feedback_mapper=beyond)
    return refined.as_step(name)


def _picked(node: Picked, name: str) -> Step[Any, Any]:
    branches = Step.parallel(f"{name}all", _below(node.branches, name))
    return Pipeline([branches, Step.gather(f"{name}pick", wait_for=["b0"]), first_of]).as_step(name)


def _nested(node: Nested, name: str) -> Step[Any, Any]:
    inner = build(node.body, f"{name}0")
    pipeline = inner if isinstance(inner, Pipeline) else Pipeline([inner])
    return Pipeline([Flujo(pipeline, context_model=Counter).as_step(f"{name}run"), unwrap_result]).as_step(name)


def _adapted(node: Adapted, name: str) -> Step[Any, Any]:
    return Pipeline([as_dict, add.use_input("number")]).as_step(name)


def _spoken(node: Spoken, name: str) -> Step[Any, Any]:
    return Pipeline([digits, read_digits]).as_step(name)


def _ask(node: Ask, name: str) -> Step[Any, Any]:
    return Step.human_in_the_loop(f"{name}ask", input_schema=int)


_BUILDERS: dict[type, Callable[[Any, str], Step[Any, Any] | Pipeline]] = {
    Leaf: _leaf,
    Seq: _seq,
    Par: _par,
    Loop: _loop,
    Cond: _cond,
    Machine: _machine,
    Map: _map,
    Route: _route,
    Sub: _sub,
    Behind: _behind,
    Kept: _kept,
    Saved: _saved,
    Turns: _turns,
    Refine: _refine,
    Picked: _picked,
    Nested: _nested,
    Adapted: _adapted,
    Spoken: _spoken,
    Ask: _ask,
}


# ---- as numbers


@dataclass
class Outcome:
    """What a tree gives. `exhausted`: it failed by its limit, which only matters if nothing follows."""

    ok: bool
    value: int
    counter: int
    exhausted: bool = False


@dataclass
class Interpreter:
    """Runs trees by the rules of docs/control_flow.md."""

    tokens: int = 0
    questions: int = 0
    _rules: dict[type, Callable[..., Outcome]] = field(default_factory=dict)

    def run(self, node: Any, value: int, counter: int) -> Outcome:
        """What becomes of a number and a count."""
        outcome: Outcome = getattr(self, f"_{type(node).__name__.lower()}")(node, value, counter)
        return outcome

    def _leaf(self, node: Leaf, value: int, counter: int) -> Outcome:
        if node.op == "fail" and value % 3 == 0:
            return Outcome(False, 0, counter)
        if node.op == "keep":
            return Outcome(True, value, counter)
        self.tokens += 1
        if node.op == "count":
            return Outcome(True, value, counter + 1)
        return Outcome(True, value + {"add": 1, "peek": counter, "fail": 0}[node.op], counter)

    def _seq(self, node: Seq, value: int, counter: int) -> Outcome:
        out = Outcome(True, value, counter)
        for place, part in enumerate(node.parts):
            # a part of several nodes is a step of its own, so its limit is met inside it
            inner = self.run(part, out.value, out.counter)
            out = Outcome(inner.ok, inner.value, inner.counter, inner.exhausted and not isinstance(part, Seq))
            if not out.ok and not (out.exhausted and place + 1 < len(node.parts)):
                kept = inner.counter if not isinstance(part, Seq) else counter
                return Outcome(False, 0, kept)
        return Outcome(True, out.value, out.counter)

    def _par(self, node: Par, value: int, counter: int) -> Outcome:
        ends = [self.run(part, value, counter) for part in node.branches]
        return self._joined(ends, counter, ignore=node.ignore, merge=node.merge)

    def _joined(self, ends: list[Outcome], counter: int, *, ignore: bool, merge: bool) -> Outcome:
        good = [end for end in ends if end.ok]
        if len(good) < len(ends) and not (ignore and good):
            return Outcome(False, 0, counter)
        added = sum(end.counter - counter for end in good) if merge else 0
        return Outcome(True, sum(end.value for end in good), counter + added)

    def _loop(self, node: Loop, value: int, counter: int) -> Outcome:
        for _ in range(MOST_LOOPS):
            end = self.run(node.body, value, counter)
            if not end.ok:
                return Outcome(False, 0, counter)
            value, counter = end.value, end.counter
            if value >= node.until:
                return Outcome(True, value, counter)
        return Outcome(False, value, counter, exhausted=True)

    def _cond(self, node: Cond, value: int, counter: int) -> Outcome:
        return self._alone(self.run(node.even if value % 2 == 0 else node.odd, value, counter), counter)

    def _machine(self, node: Machine, value: int, counter: int) -> Outcome:
        first = self.run(node.first, value, counter)
        if first.ok:
            return self._alone(self.run(node.then, first.value, first.counter), first.counter)
        return self._alone(self.run(node.rescue, value, counter), counter)

    def _map(self, node: Map, value: int, counter: int) -> Outcome:
        self.tokens += 1
        ends = [self.run(node.body, value + offset, counter) for offset in range(MOST_ITEMS)]
        good = [end for end in ends if end.ok]
        if len(good) < len(ends) and node.failed == "fail":
            return Outcome(False, 0, counter)
        self.tokens += 1
        return self._joined(good, counter, ignore=True, merge=True) if good else Outcome(True, 0, counter)

    def _route(self, node: Route, value: int, counter: int) -> Outcome:
        self.tokens += 1
        picked = [part for place, part in enumerate(node.branches) if value >> place & 1]
        return self._joined([self.run(part, value, counter) for part in picked], counter, ignore=False, merge=True)

    def _sub(self, node: Sub, value: int, counter: int) -> Outcome:
        end = self.run(node.body, value, counter if node.inherit else 0)
        return self._alone(Outcome(end.ok, end.value, end.counter if node.inherit else counter), counter)

    def _behind(self, node: Behind, value: int, counter: int) -> Outcome:
        self.run(node.body, value, counter)
        return Outcome(True, value, counter)

    def _kept(self, node: Kept, value: int, counter: int) -> Outcome:
        return self._alone(self.run(node.body, value, counter), counter)

    def _saved(self, node: Saved, value: int, counter: int) -> Outcome:
        if value % 3:
            self.tokens += 1
            return Outcome(True, value, counter)
        if node.op != "seven":
            return Outcome(False, 0, counter)
        self.tokens += 1
        return Outcome(True, value + 7, counter)

    def _turns(self, node: Turns, value: int, counter: int) -> Outcome:
        self.tokens += node.turns
        return Outcome(True, value + node.turns, counter)

    def _refine(self, node: Refine, value: int, counter: int) -> Outcome:
        given, at = value, Outcome(True, value, counter)
        for _ in range(MOST_LOOPS):
            at = self.run(Seq((node.body, Leaf("keep"))), at.value, at.counter)
            if not at.ok:
                return Outcome(False, 0, counter)
            self.tokens += 1
            if at.value >= 10:
                return at
            at = Outcome(True, given + at.value, at.counter)
        return Outcome(True, at.value - given, at.counter)

    def _picked(self, node: Picked, value: int, counter: int) -> Outcome:
        ends = [self.run(part, value, counter) for part in node.branches]
        joined = self._joined(ends, counter, ignore=False, merge=True)
        if not joined.ok:
            return joined
        self.tokens += 1
        return Outcome(True, ends[0].value, joined.counter)

    def _nested(self, node: Nested, value: int, counter: int) -> Outcome:
        end = self.run(node.body, value, counter)
        self.tokens += end.ok
        return self._alone(end, counter)

    def _adapted(self, node: Adapted, value: int, counter: int) -> Outcome:
        self.tokens += 1
        return Outcome(True, value + 1, counter)

    def _spoken(self, node: Spoken, value: int, counter: int) -> Outcome:
        self.tokens += 1
        return Outcome(True, value, counter)

    def _ask(self, node: Ask, value: int, counter: int) -> Outcome:
        self.questions += 1
        return Outcome(True, ANSWER, counter)

    def _alone(self, end: Outcome, counter: int) -> Outcome:
        """What a composite makes of its one child: a child that failed leaves no trace in the context."""
        return Outcome(True, end.value, end.counter) if end.ok else Outcome(False, 0, counter)


# ---- trees

#: Every leaf.
LEAVES: tuple[Any, ...] = (
    *(Leaf(op) for op in ("add", "count", "peek", "fail")),
    Saved("seven"),
    Saved("fail"),
    Turns(2),
    Adapted(),
    Spoken(),
    Ask(),
)


#: Every composite, around a body.
AROUND: dict[str, Callable[[Any], Any]] = {
    "sequence": lambda body: Seq((Leaf("count"), body, Leaf("peek"))),
    "parallel": lambda body: Par((body, Leaf("count")), at_once=1),
    "loop": Loop,
    "conditional": lambda body: Cond(Seq((Leaf("count"), body)), body),
    "machine": lambda body: Machine(Leaf("fail"), Leaf("add"), body),
    "map": Map,
    "router": lambda body: Route((body, Seq((Leaf("count"), body)))),
    "sub": Sub,
    "apart": lambda body: Sub(body, inherit=False),
    "background": lambda body: Seq((Behind(body), Leaf("add"))),
    "cached": lambda body: Kept(Seq((Leaf("count"), body))),
    "refine": Refine,
    "gather": lambda body: Picked((body, Leaf("count"))),
    "runner": Nested,
}

INNERMOST = Seq((Leaf("count"), Adapted(), Saved("seven"), Turns(2), Spoken(), Leaf("peek")))

#: The same with a question, which pauses the run.
ASKING = Seq((Leaf("count"), Ask(), Leaf("peek")))

MATRIX = {(outer, inner): AROUND[outer](AROUND[inner](INNERMOST)) for outer in AROUND for inner in AROUND}
PAUSING = {(outer, inner): AROUND[outer](AROUND[inner](ASKING)) for outer in AROUND for inner in AROUND}


def as_pipeline(tree: Any, name: str) -> Pipeline:
    """The tree as a named pipeline."""
    return Pipeline([_step(build(tree), "n")], name=name)


_KINDS = list(AROUND)

#: What a fleet knows by name: each composite inside each other, and a pause in each of them.
SAMPLE: dict[str, Any] = {
    **{f"{inner}-in-{outer}": tree for (outer, inner), tree in MATRIX.items()},
    **{f"{outer}-pauses": PAUSING[outer, _KINDS[(place + 5) % len(_KINDS)]] for place, outer in enumerate(_KINDS)},
}

#: Has every function of every kind of node, so that workers can run any tree.
EVERYTHING = Seq(
    (
        *LEAVES,
        Par((Leaf("add"),)),
        *(Loop(Leaf("add"), until) for until in (5, 10)),
        Cond(Leaf("add"), Leaf("add")),
        Machine(Leaf("add"), Leaf("add"), Leaf("add")),
        Map(Leaf("add")),
        Route((Leaf("add"),)),
        *(Sub(Leaf("add"), inherit) for inherit in (True, False)),
        Behind(Leaf("add")),
        Kept(Leaf("add")),
        Refine(Leaf("add")),
        Picked((Leaf("add"),)),
        Nested(Leaf("add")),
    )
)
