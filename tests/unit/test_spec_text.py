"""Specs as text: garbage is one error, and what a pipeline may ask for is what processes can read and messages carry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flujo_client import Pipeline, StateMachineStep, Step
from flujo_client.protocol.errors import ConfigurationError, SchemaMismatchError
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.leaves import HitlSpec
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.spec import PipelineSpec, SequenceSpec, StepSpec
from flujo_client.protocol.spec_text import LARGEST_SPEC, load_spec, refuse_unsendable, spec_text
from flujo_client.protocol.specs import SpecStore


async def add_one(number: int) -> int:
    return number + 1


def is_large(number: int, context: Any) -> bool:
    return number > 9


def small(output: int) -> bool:
    return output < 10


_STEP: Step[Any, Any] = Step.from_callable(add_one)
_LOOP = Step.loop_until("again", _STEP, is_large, max_loops=10**6)
_PIPELINE = Pipeline(
    [
        _STEP,
        _LOOP,
        Step.parallel("both", {"a": _STEP, "b": _STEP.fallback(Step.from_callable(add_one, name="spare"))}),
        Step.human_in_the_loop("ask"),
        Step.map_over("each", _STEP),
    ],
    name="p",
    static_invariants=["output != 3", small],
)

_DOCUMENT = _PIPELINE.to_spec().model_dump_json()

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_spec(garbage: bytes) -> None:
    with pytest.raises(SchemaMismatchError, match="cannot be read"):
        load_spec(garbage)


@settings(deadline=None)
@given(st.data())
def test_one_fault_in_a_good_spec_is_one_error_or_a_spec_that_can_be_written_again(data: st.DataObject) -> None:
    document = json.loads(_DOCUMENT)
    place = data.draw(st.sampled_from(list(_places(document))))
    key = data.draw(st.sampled_from(sorted(place) or ["more"]) | st.text(max_size=5))
    place[key] = data.draw(_JSON)

    try:
        spec = load_spec(json.dumps(document))
    except SchemaMismatchError:
        return
    assert load_spec(spec_text(spec)).content_hash == spec.content_hash


def _places(value: Any) -> Any:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _places(part)


@pytest.mark.parametrize("deep", ['{"a":' * 10_000, "[" * 100_000], ids=["objects", "lists"])
def test_a_document_that_is_nested_without_end_is_no_spec(deep: str) -> None:
    with pytest.raises(SchemaMismatchError):
        load_spec(deep)


def test_a_spec_larger_than_any_release_writes_is_not_even_parsed() -> None:
    with pytest.raises(SchemaMismatchError, match=f"more than {LARGEST_SPEC}"):
        load_spec(b" " * (LARGEST_SPEC + 1))


async def test_a_spec_that_is_too_large_is_not_stored(scripts: Scripts, keyspace: Keyspace) -> None:
    words = "x" * (LARGEST_SPEC // 4)
    many = [HitlSpec(name=f"ask{number}", message=words) for number in range(5)]
    spec = PipelineSpec(name="p", root=SequenceSpec(nodes=tuple(many)))

    with pytest.raises(ConfigurationError, match=r"Pipeline 'p' has a spec of \d+ bytes"):
        await SpecStore(scripts).keep(spec, "r")
    assert await scripts.commands.execute("EXISTS", keyspace.shard("specs")) == 0


@pytest.mark.parametrize("levels", [1, 20, 55])
def test_what_is_accepted_can_be_read_and_its_steps_fit_into_messages(levels: int) -> None:
    pipeline = _nested(levels, lambda inner: inner.as_step(name="inner"))

    spec = pipeline.to_spec()

    assert load_spec(spec_text(spec)) == spec
    path = ".".join("0" for _ in range(2 * levels + 1))
    leaf = spec.node(path)
    assert isinstance(leaf, StepSpec)
    StepRef(run_id="r", path=path, attempt=1, function=leaf.wanted, owner="pool")


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: inner.as_step(name="inner"),
        lambda inner: Step.parallel("inner", {"a": inner, "b": inner}),
        lambda inner: Step.loop_until("inner", inner, is_large, max_loops=10**9),
        lambda inner: Step.map_over("inner", inner),
        lambda inner: Step.branch_on("inner", is_large, {True: inner}),
        lambda inner: StateMachineStep(
            name="inner", states={"s": inner, "t": inner}, start_state="s", end_states=["t"]
        ),
    ],
    ids=["pipeline", "parallel", "loop", "map", "conditional", "machine"],
)
def test_pipelines_in_one_another_end_somewhere_with_an_error_that_names_the_place(
    around: Callable[[Any], Step[Any, Any]],
) -> None:
    def inside(levels: int) -> PipelineSpec:
        sequence = SequenceSpec(nodes=(StepSpec(name="leaf", function="m:f"),))
        template = around(Pipeline([_STEP], name="p")).to_node()
        part = next(name for name in ("branches", "states", "body") if name in type(template).model_fields)
        for _ in range(levels):
            inner: Any = sequence if part == "body" else (sequence, sequence)
            sequence = SequenceSpec(nodes=(template.model_copy(update={part: inner}),))
        return PipelineSpec(name="p", root=sequence)

    refuse_unsendable(inside(1))
    with pytest.raises(ConfigurationError, match=r"Pipeline 'p' cannot be sent: (inner|leaf): too many nodes"):
        refuse_unsendable(inside(70))


def test_functions_that_no_message_could_carry_are_refused() -> None:
    long = StepSpec(name="a", function="m:" + "f" * 2_000)
    spaced = StepSpec(name="a", function="m:f two")
    many = StepSpec(name="a", function="m:f", invariant_functions=tuple(f"module:rule{n}" for n in range(200)))
    behind = StepSpec(name="a", function="m:f", fallback=spaced)

    for step in (long, spaced, many, behind):
        with pytest.raises(ConfigurationError, match="no spaces and 2000 characters"):
            refuse_unsendable(PipelineSpec(name="p", root=SequenceSpec(nodes=(step,))))


def test_conditions_that_no_message_could_carry_are_refused() -> None:
    loop = _LOOP.to_node().model_copy(update={"exit_condition": "m:two words"})

    with pytest.raises(ConfigurationError, match="again: its functions must have no spaces"):
        refuse_unsendable(PipelineSpec(name="p", root=SequenceSpec(nodes=(loop,))))


def test_a_composite_whose_name_no_message_could_carry_is_refused() -> None:
    loop = _LOOP.to_node().model_copy(update={"name": "x" * 500})

    with pytest.raises(ConfigurationError, match="its name has more than"):
        refuse_unsendable(PipelineSpec(name="p", root=SequenceSpec(nodes=(loop,))))


def test_fallbacks_and_values_without_end_are_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    step = StepSpec(name="a", function="m:f")
    for _ in range(100):
        step = StepSpec(name="a", function="m:f", fallback=step)
    data = Pipeline([_STEP], name="q").as_step(name="inner").to_node().model_copy(update={"context_data": {"x": deep}})

    for node, says in (
        (step, "fallbacks"),
        (StepSpec(name="a", function="m:f", template=deep), "input"),
        (data, "data"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            refuse_unsendable(PipelineSpec(name="p", root=SequenceSpec(nodes=(node,))))


@pytest.mark.parametrize("name", ["two words", "", "x" * 121, "ключ", "a\nb", "{flujo:0}"])
def test_a_pipeline_whose_name_cannot_stand_in_keys_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Pipeline([_STEP], name=name or "\0").to_spec()


def _nested(levels: int, around: Callable[[Pipeline], Step[Any, Any]]) -> Pipeline:
    pipeline = Pipeline([_STEP], name="p")
    for _ in range(levels):
        pipeline = Pipeline([around(pipeline)], name="p")
    return pipeline
