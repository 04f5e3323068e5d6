"""Templates and expressions of users: what they can say, and that they cannot reach Python's internals."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client.protocol.errors import TemplateResolutionError
from flujo_client.protocol.expressions import evaluate, has_template, names_in_steps, render


class Thing:
    size = 3


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no template", "no template"),
        (5, 5),
        ("{{ previous_step }}!", "[1, 2]!"),
        ("{{ previous_step }}", "[1, 2]"),
        ("{{ thing.size + 1 }}", "4"),
        ({"a": ["{{ thing.size }}", 7], "b": "x"}, {"a": ["3", 7], "b": "x"}),
        ("{% if thing.size > 2 %}big{% endif %}", "big"),
    ],
)
def test_templates_become_text(template: Any, text: Any) -> None:
    assert render(template, {"previous_step": [1, 2], "thing": Thing()}, as_text=True) == text


def test_a_template_that_is_one_expression_can_keep_its_value() -> None:
    facts = {"previous_step": [1, 2]}

    assert render("{{ previous_step }}", facts, as_text=False) == [1, 2]
    assert render("{{ previous_step[0] }} of {{ previous_step[1] }}", facts, as_text=False) == "1 of 2"


@pytest.mark.parametrize(
    "template", ["{{ nobody }}", "{{ thing.nothing.more }}", "{{ thing.__class__ }}", "{{ 1 / 0 }} of", "{{ open"]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_what_cannot_be_resolved_is_an_error_that_shows_it(template: str, as_text: bool) -> None:
    with pytest.raises(TemplateResolutionError, match="cannot be"):
        render(template, {"thing": Thing()}, as_text=as_text)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("len(output) > 1 and output[0] == 1", True),
        ("output is None", False),
        ("not missing is defined", True),
        ("max(output) + sum(output)", 5),
    ],
)
def test_expressions_read_like_python(expression: str, value: Any) -> None:
    assert evaluate(expression, {"output": [1, 2]}) == value


@pytest.mark.parametrize("expression", ["output.__class__.__mro__", "output +", "nobody > 1", "output.append(3)"])
def test_expressions_reach_no_internals_and_change_nothing(expression: str) -> None:
    output = [1, 2]

    with pytest.raises(TemplateResolutionError):
        bool(evaluate(expression, {"output": output}))
    assert output == [1, 2]


def test_the_steps_that_a_template_reads_are_known_without_running_it() -> None:
    template = {"a": "{{ steps.one.output }} {{ steps['two words'] }}", "b": ["{{ steps.three }}", 4], "c": "steps"}

    assert names_in_steps(template) == {"one", "two words", "three"}
    assert has_template(template)
    assert not has_template({"a": 1, "b": ["plain"]})
