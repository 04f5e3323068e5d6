"""What is attached to steps, as data: in specs, and in what agents answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from flujo_client import (
    FlujoAgentResult,
    FlujoAgentUsage,
    Pipeline,
    Step,
    TypeMismatchError,
    TypeValidator,
    ValidationResult,
)
from flujo_client.protocol.attachments import Attachments
from flujo_client.protocol.expressions import render_message
from flujo_client.protocol.spec import SequenceSpec, StepSpec
from flujo_client.protocol.types import Producer


async def echo(data: Any) -> Any:
    return data


def done(output: Any, context: Any) -> bool:
    return True


def small(output: Any) -> bool:
    return True


def test_nothing_attached_is_false() -> None:
    assert not Attachments()
    assert Attachments(validators=(echo,))


def test_an_agents_result_says_what_it_used() -> None:
    usage = FlujoAgentUsage(3, 4)

    assert (FlujoAgentResult("x", usage).usage(), usage.total_tokens) == (usage, 7)


@pytest.mark.parametrize(("valid", "score"), [(True, 1.0), (False, 0.0)])
def test_a_validators_score_follows_its_verdict(valid: bool, score: float) -> None:
    assert ValidationResult(is_valid=valid).score == score
    assert ValidationResult(is_valid=valid, score=0.4).score == 0.4


def test_the_invariants_of_a_pipeline_reach_every_step_in_it_at_any_depth_and_their_fallbacks() -> None:
    plan_b: Step[Any, Any] = Step.from_callable(echo, name="plan_b")
    inner = Pipeline([Step.from_callable(echo, name="b").fallback(plan_b)], static_invariants=["inner"])
    looped: Step[Any, Any] = Step.from_callable(echo, name="c")
    parts: list[Step[Any, Any]] = [
        Step.loop_until("l", looped, exit_condition_callable=done),
        Step.from_callable(echo, name="a"),
        Step.parallel("p", {"x": inner}),
        Step.human_in_the_loop("ask"),
    ]
    outer = Pipeline([*parts], name="outer", static_invariants=["outer", small])

    rules = {leaf.name: (leaf.invariants, leaf.invariant_functions) for leaf in outer.to_spec().steps()}

    function = "tests.unit.test_attachments:small"
    assert rules == {
        "c": (("outer",), (function,)),
        "a": (("outer",), (function,)),
        "b": (("inner", "outer"), (function,)),
    }
    fallback = outer.to_spec().steps()[2].fallback
    assert fallback is not None
    assert (fallback.invariants, fallback.uses_context) == (("inner", "outer"), True)
    assert function in outer.control_definitions()


def test_leaves_are_changed_wherever_they_are_and_nothing_else_is() -> None:
    spec = SequenceSpec(
        nodes=(StepSpec(name="a", function="a"), SequenceSpec(nodes=(StepSpec(name="b", function="b"),)))
    )

    changed = spec.with_steps(lambda leaf: leaf.model_copy(update={"queue": "gpu"}))

    assert [leaf.queue for leaf in (changed.nodes[0], changed.nodes[1].nodes[0])] == ["gpu", "gpu"]  # type: ignore[union-attr]  # they are what was put in
    assert StepSpec(name="a", function="a").with_steps(lambda leaf: leaf).name == "a"


@pytest.mark.parametrize(
    ("terms", "wants"),
    [
        ({}, False),
        ({"uses_context": True}, True),
        ({"updates_context": True}, True),
        ({"sink_to": "x"}, True),
        ({"persist_feedback_to": "x"}, True),
        ({"persist_validation_to": "x"}, True),
    ],
)
def test_a_step_wants_the_context_if_it_reads_or_writes_it(terms: dict[str, Any], wants: bool) -> None:
    assert StepSpec(name="a", function="a", **terms).wants_context is wants


class City(BaseModel):
    people: int


@pytest.mark.parametrize(
    ("declared", "value", "accepted"),
    [(int, "5", 5), (Any, "5", "5"), (City, {"people": "3"}, City(people=3)), (str, "x", "x")],
)
def test_what_a_template_made_is_read_as_the_declared_type(declared: Any, value: Any, accepted: Any) -> None:
    assert TypeValidator().accept_input(Producer("s", Any, declared), value) == accepted


def test_an_input_of_its_own_that_does_not_fit_names_the_step() -> None:
    with pytest.raises(TypeMismatchError, match="that step 's' gives itself"):
        TypeValidator().accept_input(Producer("s", Any, int), "five")


def test_a_message_forgives_what_is_not_there_and_nothing_else() -> None:
    from flujo_client import TemplateResolutionError

    assert render_message("{{ nobody }}Hello {{ name }}", {"name": "you"}) == "Hello you"
    with pytest.raises(TemplateResolutionError):
        render_message("{{ open", {})
