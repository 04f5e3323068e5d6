"""Specs: pure data with a stable hash."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import Pipeline, Step
from flujo_client.protocol.errors import (
    SchemaMismatchError,
)
from flujo_client.protocol.needs import needs_of
from flujo_client.protocol.spec import HitlSpec, ParallelSpec, PipelineSpec, SequenceSpec, StepSpec
from flujo_client.protocol.spec_text import load_spec


async def a_step(value: Any) -> Any:
    return value


async def other_step(value: Any) -> Any:
    return value


def _step(name: str) -> StepSpec:
    return StepSpec(name=name, function="m:f")


LEFT, RIGHT = SequenceSpec(nodes=(_step("b"),)), SequenceSpec(nodes=(_step("c"), _step("d")))
PARALLEL = ParallelSpec(name="both", names=("left", "right"), branches=(LEFT, RIGHT))
SPEC = PipelineSpec(name="p", root=SequenceSpec(nodes=(_step("a"), PARALLEL)))


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("root", SPEC.root),
        ("0", _step("a")),
        ("1", PARALLEL),
        ("1!merge", PARALLEL),
        ("1.0", LEFT),
        ("1.1", RIGHT),
        ("1.1.1", _step("d")),
    ],
)
def test_a_path_leads_to_its_node(path: str, node: StepSpec | SequenceSpec | ParallelSpec) -> None:
    assert SPEC.node(path) == node


@pytest.mark.parametrize("path", ["2", "0.0", "1.2", "1.1.2"])
def test_a_path_that_the_pipeline_lacks_is_refused(path: str) -> None:
    with pytest.raises(KeyError, match=path):
        SPEC.node(path)


def test_steps_come_in_declared_order() -> None:
    assert [step.name for step in SPEC.steps()] == ["a", "b", "c", "d"]


def test_a_question_to_a_human_is_a_leaf_but_no_step_of_a_function() -> None:
    spec = PipelineSpec(name="p", root=SequenceSpec(nodes=(HitlSpec(name="ask"),)))

    assert (spec.node("0"), spec.steps()) == (HitlSpec(name="ask"), [])
    with pytest.raises(KeyError, match=r"0\.0"):
        spec.node("0.0")


def test_a_stored_spec_is_the_same_spec() -> None:
    again = load_spec(SPEC.model_dump_json())

    assert (again, again.content_hash) == (SPEC, SPEC.content_hash)


def test_a_spec_of_a_newer_release_is_refused() -> None:
    with pytest.raises(SchemaMismatchError, match="upgrade"):
        load_spec('{"version": 99, "name": "x", "root": {"kind": "sequence", "nodes": []}}')


def test_what_a_pipeline_needs_is_named_at_any_depth_from_a_step_on() -> None:
    def at_once(value: Any, context: Any) -> bool:
        return True

    inner: Step[Any, Any] = Step.from_callable(a_step, name="inner").fallback(
        Step.from_callable(other_step, name="spare")
    )
    loop = Step.loop_until("loop", inner, at_once)
    pipeline = Pipeline([Step.from_callable(a_step, name="first"), loop, Step.human_in_the_loop("ask")], name="p")

    spec = pipeline.to_spec()

    assert [step for step, _ in needs_of(spec)] == ["first", "loop", "inner", "spare"]
    assert [step for step, _ in needs_of(spec, 1)] == ["loop", "inner", "spare"]
    assert needs_of(spec, 2) == []
    assert all(":" in function for _, function in needs_of(spec))
