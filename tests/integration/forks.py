"""A pipeline for each kind of composite, whose steps cost three tokens each and count themselves in the context."""

from __future__ import annotations

from typing import Any

from flujo_client import Pipeline, PipelineContext, StateMachineStep, Step, StepRun, step
from tests.integration.pipelines import ledger


@step(max_retries=0)
async def count(value: Any, run: StepRun, *, context: PipelineContext) -> Any:
    ledger("bill", run)
    run.usage.add(tokens=3)
    context.call_count += 1
    return value


def paying(name: str) -> Step[Any, Any]:
    return count.model_copy(update={"name": name})


@step
async def name_branches(value: Any) -> list[str]:
    return ["x", "z"]


@step
async def list_items(value: Any) -> list[int]:
    return [1, 2, 3]


def thrice(value: Any, context: PipelineContext) -> bool:
    return context.call_count > 6


def first_branch(value: Any, context: PipelineContext) -> str:
    return "x"


_TWO = paying("a") >> paying("b")
_STATES = {name: Pipeline.from_step(paying(name)) for name in ("one", "two", "three")}
forkable = {
    name: Pipeline([paying("first"), middle, paying("last")], name=f"forkable_{name}")
    for name, middle in {
        "parallel": Step.parallel("par", {"x": _TWO, "y": paying("c") >> paying("d")}),
        "narrow": Step.parallel("par", {"x": paying("c"), "y": _TWO, "z": paying("d")}, max_concurrency=1),
        "loop": Step.loop_until("again", _TWO, thrice, max_loops=5),
        "router": Step.dynamic_parallel_branch("dyn", name_branches, {"x": _TWO, "y": paying("c"), "z": paying("d")}),
        "machine": StateMachineStep(
            name="states",
            states=_STATES,
            start_state="one",
            end_states=["three"],
            transitions=[{"from": "one", "to": "two"}, {"from": "two", "to": "three"}],
        ),
        "conditional": Step.branch_on("which", first_branch, {"x": _TWO, "y": paying("c")}),
        "cached": Step.cached(_TWO.as_step("both")),
        "pipeline": _TWO.as_step("inner"),
        "map": Pipeline([list_items, Step.map_over("each", _TWO, max_concurrency=1)]).as_step("all"),
    }.items()
}
globals().update({f"forkable_{kind}": pipeline for kind, pipeline in forkable.items()})
