"""Pipelines of the sweep of crash points: for each kind of node one that has it, and one for each effect that only some steps have."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_client import Pipeline, PipelineContext, StateMachineStep, Step, StepRun
from tests.faults.crowds import Answer, conclude
from tests.faults.workload import (
    FAR,
    TOKENS_EXPECTED,
    Baton,
    bill,
    carry,
    gate_of,
    join,
    note,
    passed_on,
)

__all__ = ["ACCOUNT", "MORE_KINDS", "unpublished"]

#: Pipelines of this module that have a kind of node which those of `workload` have not.
MORE_KINDS = ("asking", "hopping", "spread", "routing", "behind", "keeping", "nesting")

#: The named account of the steps that draw on one.
ACCOUNT = "provider"


def _step(function: Any, **terms: Any) -> Step[Any, Any]:
    terms = {"queue": FAR, "max_retries": 0, "expected_tokens": TOKENS_EXPECTED, **terms}
    return Step.from_callable(function, name=function.__name__, **terms)


async def deal(baton: Baton, run: StepRun) -> list[Baton]:
    note("started", run, saw=[baton.maker])
    bill(run)
    return [passed_on([baton], run)] * 3


async def gather_up(batons: list[Baton], run: StepRun) -> Baton:
    note("started", run, saw=[baton.maker for baton in batons])
    bill(run)
    return passed_on(batons, run)


async def name_branches(baton: Baton) -> list[str]:
    return ["c", "a"]


async def measure(baton: Baton, run: StepRun) -> int:
    """What it gives may be another run's: it names no maker."""
    note("started", run, saw=[baton.maker])
    bill(run)
    return baton.pace_ms


async def begin(pace_ms: int, run: StepRun) -> Baton:
    note("started", run)
    bill(run)
    return passed_on([Baton(pace_ms=pace_ms)], run)


def onward(baton: Baton, context: PipelineContext) -> bool:
    return baton.count > 0


async def draw(baton: Baton, run: StepRun) -> Baton:
    """Draws on a named account, and is told to hold it back a little."""
    note("started", run, saw=[baton.maker])
    bill(run)
    await run.retry_after(0.05)
    await asyncio.sleep(baton.pace_ms / 1000)
    return passed_on([baton], run)


async def cling(baton: Baton, run: StepRun) -> Baton:
    """Holds its worker until its run's gate is open, whoever cancels it."""
    note("started", run, saw=[baton.maker])
    bill(run)
    while not gate_of(run.run_id).exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            note("ignored", run)
    return passed_on([baton], run)


_carry, _join = _step(carry), _step(join)
_begin, _gather = _step(begin), _step(gather_up)
_behind = _step(carry, execution_mode="background")
_ask = Step.human_in_the_loop("ask", message_for_user="Go on?", input_schema=Answer)
_ask = _ask.model_copy(update={"config": _ask.config.model_copy(update={"queue": FAR})})
_soon = Step.human_in_the_loop(
    "soon",
    message_for_user="Now?",
    input_schema=Answer,
    expires_in_s=0.2,
    on_expiry="answer",
    default_answer={"by": "clock"},
)
_states = StateMachineStep(
    name="states",
    states={"go": _carry, "turn": _carry, "stop": _carry},
    start_state="go",
    end_states=["stop"],
    transitions=[{"from": "go", "to": "turn", "when": onward}, {"from": "turn", "to": "stop"}],
)
_branches: dict[str, Any] = {"a": _carry, "b": _carry, "c": _carry}

spread = (_step(deal) >> Step.map_over("each", _carry) >> _gather).named("spread_far")
asking = Pipeline([_carry, _ask, _step(conclude)], name="asking_far")
hopping = (_carry >> _states >> _carry).named("hopping_far")
routing = Pipeline([_carry, Step.dynamic_parallel_branch("route", name_branches, _branches), _join], name="routing_far")
behind = Pipeline([_carry, _behind, _carry], name="behind_far")
keeping = Pipeline([Step.cached(_step(measure), ttl_s=1), _begin, _carry], name="keeping_far")
nesting = Pipeline([Pipeline([_carry, _carry]).as_step("inner"), _carry], name="nesting_far")

expiring = Pipeline([_carry, _soon, _step(conclude)], name="expiring_far")
learning = Pipeline([_step(carry, estimate_quantile=0.9)] * 3, name="learning_far")
drawing = Pipeline([_step(draw, accounts=[ACCOUNT])] * 3, name="drawing_far")
clinging = Pipeline([_step(cling), _carry], name="clinging_far")


def unpublished(name: str) -> Pipeline:
    """Known steps under a name that no worker publishes."""
    return Pipeline([_carry] * 3, name=name)
