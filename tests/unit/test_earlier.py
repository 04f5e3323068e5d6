"""`EarlierNodes`: whose outputs a place of a run sees, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from flujo_client.protocol.earlier import EarlierNodes, EarlierOutput
from flujo_client.protocol.spec import CacheSpec, PipelineSpec
from tests.unit.replay import (
    background,
    conditional,
    hitl,
    loop,
    machine,
    map_over,
    parallel,
    router,
    sequence,
    step,
    sub_pipeline,
)

OK: dict[str, Any] = {"status": "succeeded"}
FAILED: dict[str, Any] = {"status": "failed"}


def ended(output: Any, **facts: Any) -> dict[str, Any]:
    """A composite that has succeeded."""
    return {**OK, "output": output, **facts}


def seen(path: str, states: Mapping[str, Mapping[str, Any]], *nodes: Any, branch: str | None = None) -> dict[str, Any]:
    """The expressions that a place sees, by name."""

    def read(paths: Sequence[str]) -> list[Mapping[str, Any]]:
        return [states.get(each, {}) for each in paths]

    found = EarlierNodes(PipelineSpec(name="p", root=sequence(*nodes)), read).before(path, branch)
    return {name: output.expression for name, output in found.items()}


A, B, C = step("a"), step("b"), step("c")

CACHE = CacheSpec(name="kept", body=sequence(B), ttl_ms=1, lease_ms=1)


@pytest.mark.parametrize(
    ("path", "states", "nodes", "expected"),
    [
        ("2", {}, (A, hitl("ask"), C), {"a": "out:0", "ask": "out:1"}),
        ("2", {}, (A, step("a"), C), {"a": "out:1"}),  # the nearest of a name
        ("1.0", {}, (A, parallel(B, C)), {"a": "out:0"}),  # not what runs beside it
        ("1.1.0", {}, (A, parallel(B, C, context_include_keys=("n",))), {}),
        ("1.1.0", {}, (A, parallel(B, C, context_include_keys=("step_outputs",))), {"a": "out:0"}),
        (
            "1",
            {"0": ended({"b0": "out:0.0.0"}), "0.0": OK, "0.1": FAILED},
            (parallel(A, B), C),
            {"par": {"b0": "out:0.0.0"}, "a": "out:0.0.0"},
        ),
        ("1", {"0": ended({}), "0.0": OK}, (parallel(A, merge="no_merge"), C), {"par": {}}),
        ("0.2.1", {"0": {"opened": 3}, "0.0": OK, "0.1": OK}, (loop(A, B),), {"a": "out:0.2.0", "b": "out:0.1.1"}),
        ("0!next.1", {"0": {"opened": 2}, "0.0": OK, "0.1": OK}, (loop(A),), {"a": "out:0.1.0"}),
        ("0!enter", {}, (loop(A),), {}),
        (
            "1",
            {"0": {**FAILED, "opened": 1}, "0.0": OK},
            (loop(A), C),
            {"a": "out:0.0.0"},
        ),  # exhausted: it has no output
        ("0!choose", {}, (conditional(("x",), A),), {}),
        (
            "1",
            {"0": ended("out:0.1.0", chosen=1), "0.1": OK},
            (conditional(("x", "y"), A, B), C),
            {"cond": "out:0.1.0", "b": "out:0.1.0"},
        ),
        (
            "0.1.0",
            {"0": {"visited": [0, 1]}, "0.0": OK},
            (machine("s", "e"),),
            {"s": "out:0.0.0"},
        ),
        ("0.1.0", {"0": {"visited": [0]}, "0.0": OK}, (machine("s", "e"),), {"s": "out:0.0.0"}),
        (
            "1",
            {"0": ended("out:0.1.0", visited=[0, 1]), "0.0": FAILED, "0.1": OK},
            (machine("s", "e"), C),
            {"machine": "out:0.1.0", "e": "out:0.1.0"},
        ),
        (
            "1",
            {"0": ended("out:0!gather.0", opened=2), "0.0": OK, "0.1": FAILED},
            (map_over(A), C),
            {"map": "out:0!gather.0", "a": "out:0.0.0"},
        ),
        ("1", {"0": ended("m", opened=1), "0.0": OK}, (map_over(A, merge="no_merge"), C), {"map": "m"}),
        ("0.1.0.0", {"0.0": OK}, (router("x", "y"),), {"dyn_router": "out:0.0.0"}),
        (
            "1",
            {"0": ended({"x": "1"}), "0.0": OK, "0.1": ended({"x": "1"}), "0.1.0": OK},
            (router("x", "y"), C),
            {"dyn": {"x": "1"}, "x": "out:0.1.0.0", "dyn_router": "out:0.0.0"},
        ),
        ("1", {"0": ended("i"), "0.0": OK}, (background(A), C), {"behind": "i"}),
        ("1", {"0": ended("o"), "0.0": OK}, (CACHE, C), {"kept": "o", "b": "out:0.0.0"}),
        ("1", {"0": ended("o"), "0.0": OK}, (sub_pipeline(A), C), {"sub": "o", "a": "out:0.0.0"}),
        ("1", {"0": ended("o"), "0.0": OK}, (sub_pipeline(A, inherit_context=False), C), {"sub": "o"}),
        ("1.0.0", {}, (A, sub_pipeline(B)), {"a": "out:0"}),
        ("1.0.0", {}, (A, sub_pipeline(B, inherit_context=False)), {}),
        ("1!failed", {}, (A, B), {"a": "out:0"}),
    ],
)
def test_a_place_sees_what_its_context_has_gone_through(
    path: str, states: Mapping[str, Mapping[str, Any]], nodes: tuple[Any, ...], expected: dict[str, Any]
) -> None:
    assert seen(path, states, *nodes) == expected


def test_a_branch_is_seen_as_at_its_end_and_not_those_beside_it() -> None:
    states = {"1": {}, "1.0": OK, "1.1": OK}

    assert seen("1!merge", states, A, parallel(B, C), branch="b1") == {"a": "out:0", "c": "out:1.1.0"}
    assert seen("1!result", {"1.0": OK}, A, sub_pipeline(B), branch="body") == {"a": "out:0", "b": "out:1.0.0"}
    assert seen("1!merge", states, A, parallel(B, C)) == {"a": "out:0", "b": "out:1.0.0", "c": "out:1.1.0"}


def test_of_many_iterations_alike_only_the_last_are_looked_at() -> None:
    reads: list[str] = []

    def read(paths: Sequence[str]) -> list[Mapping[str, Any]]:
        reads.extend(paths)
        return [{"opened": 10_000} if path == "0" else OK for path in paths]

    found = EarlierNodes(PipelineSpec(name="p", root=sequence(loop(A), C)), read).before("1")

    assert found == {"a": EarlierOutput("out:0.9999.0", "m:a")}
    assert len(reads) <= 101
