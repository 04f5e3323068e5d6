"""Specs of a thousand nodes, and of thirty levels: they are read, checked and run, and cost no more than they are large."""

from __future__ import annotations

import time
from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, Step, StepResult
from flujo_client.protocol.spec_text import load_spec
from tests.unit.replay import Replay, step

NODES, LEVELS = 1_000, 30


async def inc(number: int) -> int:
    return number + 1


def same(results: list[StepResult]) -> int:
    return int(results[0].output)


def always(value: Any, context: Any) -> bool:
    return True


def _leaf(name: str = "leaf") -> Step[Any, Any]:
    return Step.from_callable(inc, name=name)


def wide() -> Pipeline:
    return Pipeline([_leaf(f"s{place}") for place in range(NODES)], name="wide")


def deep(levels: int = LEVELS) -> Pipeline:
    """Sub-pipelines, branches, conditionals and loops in one another."""
    pipeline = Pipeline([_leaf()])
    for level in range(levels):
        name = f"level{level}"
        around: list[Step[Any, Any]] = [
            pipeline.as_step(name),
            Step.parallel(name, {"a": pipeline, "b": _leaf()}, reduce=same),
            Step.branch_on(name, always, {True: pipeline, False: _leaf()}),
            Step.loop_until(name, pipeline, always),
        ]
        pipeline = Pipeline([around[level % len(around)]], name="deep")
    return pipeline


def broad() -> Pipeline:
    """A thousand nodes as branches, which run at once."""
    return Pipeline([Step.parallel("all", {f"b{place}": _leaf() for place in range(NODES)})], name="broad")


@pytest.mark.parametrize("made", [wide, deep, broad])
def test_the_spec_survives_the_wire_and_the_graph_is_sound(made: Any) -> None:
    spec = made().to_spec()

    assert load_spec(spec.model_dump_json()) == spec
    assert load_spec(spec.model_dump_json()).content_hash == spec.content_hash
    assert made().validate_graph().is_valid


def test_a_thousand_nodes_run_in_order() -> None:
    result = Flujo(wide()).run(0)

    assert (result.output, len(result.step_history)) == (NODES, NODES)


def test_a_thousand_branches_run_at_once() -> None:
    output = Flujo(broad()).run(0).output

    assert len(output) == NODES
    assert set(output.values()) == {1}


def test_thirty_levels_run_and_show_each_level_in_the_result() -> None:
    result = Flujo(deep()).run(0)

    levels, parts = set[str](), list(result.step_history)
    while parts:
        part = parts.pop()
        levels.add(part.name.partition("_")[0])
        parts += part.step_history
    assert (result.success, result.output) == (True, 1)
    assert {f"level{level}" for level in range(LEVELS) if level % 4 != 3} <= levels


def test_depth_costs_no_more_than_its_square() -> None:
    """What a composite takes was once asked for twice at each level: 2^30 questions."""

    def seconds(levels: int) -> float:
        pipeline, begun = deep(levels), time.perf_counter()
        pipeline.to_spec()
        pipeline.validate_graph()
        return time.perf_counter() - begun

    seconds(5)

    assert seconds(LEVELS) < 100 * max(seconds(LEVELS // 3), 0.001)


def test_a_decision_in_a_thousand_nodes_touches_a_few() -> None:
    run = Replay(*(step(f"s{place}") for place in range(NODES)))
    for place in range(NODES // 2):
        run.succeed(str(place))

    decision = run.succeed(str(NODES // 2))

    assert set(decision.nodes) <= {"root", str(NODES // 2), str(NODES // 2 + 1)}
