"""`{{ }}` templates and expressions of users, evaluated in jinja2's sandbox: no attribute of Python's internals is reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from jinja2 import StrictUndefined, TemplateError, Undefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flujo_client.protocol.errors import TemplateResolutionError

__all__ = ["evaluate", "has_template", "names_in_steps", "render", "render_message"]

_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
_ENVIRONMENT.globals.update(
    len=len,
    abs=abs,
    all=all,
    any=any,
    bool=bool,
    float=float,
    int=int,
    isinstance=isinstance,
    max=max,
    min=min,
    round=round,
)
_ENVIRONMENT.globals.update(sorted=sorted, str=str, sum=sum, dict=dict, list=list, set=set, tuple=tuple)
_ENVIRONMENT.tests["None"] = lambda value: value is None

_FORGIVING: Final = _ENVIRONMENT.overlay(undefined=Undefined)

_SOLE: Final = re.compile(r"^\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*$", re.DOTALL)
_STEP_NAME: Final = re.compile(r"""\bsteps(?:\.(\w+)|\[\s*['"]([^'"]+)['"]\s*\])""")


def has_template(value: Any) -> bool:
    """Whether there is a template in a value, at any depth."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    if isinstance(value, Mapping):
        return any(has_template(part) for part in value.values())
    return isinstance(value, list | tuple) and any(has_template(part) for part in value)


def names_in_steps(value: Any) -> frozenset[str]:
    """The steps whose outputs a template reads, as `steps.name` or `steps["name"]`."""
    if isinstance(value, str):
        return frozenset(one or other for one, other in _STEP_NAME.findall(value))
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return frozenset(name for part in parts for name in names_in_steps(part))


def render(value: Any, facts: Mapping[str, Any], *, as_text: bool) -> Any:
    """Put facts into the templates of a value.

    Args:
        value: A template, or a dict or list with templates in it.
        as_text: A template that is one expression gives text as well, and not the expression's own value.

    Raises:
        TemplateResolutionError: A template is malformed, or names what is not there.
    """
    if isinstance(value, Mapping):
        return {key: render(part, facts, as_text=as_text) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [render(part, facts, as_text=as_text) for part in value]
    if not has_template(value):
        return value
    sole = _SOLE.match(value)
    if sole is not None and not as_text:
        return evaluate(sole.group(1), facts)
    try:
        return _ENVIRONMENT.from_string(value).render(facts)
    except (TemplateError, SecurityError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TemplateResolutionError(f"Template {value!r} cannot be resolved: {error}.") from error


def render_message(template: str, facts: Mapping[str, Any]) -> str:
    """A message for people. What it names and is not there stands as nothing.

    Raises:
        TemplateResolutionError: It is malformed, or reaches for what it must not.
    """
    try:
        return _FORGIVING.from_string(template).render(facts)
    except (TemplateError, SecurityError) as error:
        raise TemplateResolutionError(f"Template {template!r} cannot be rendered: {error}.") from error


def evaluate(expression: str, facts: Mapping[str, Any]) -> Any:
    """The value of an expression over facts, such as `output.score > 0.5 and context.round < 3`.

    Raises:
        TemplateResolutionError: It is malformed, or names what is not there.
    """
    try:
        value = _ENVIRONMENT.compile_expression(expression, undefined_to_none=False)(**facts)
        return str(value) if isinstance(value, Undefined) else value  # whose text is the error
    except (TemplateError, SecurityError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TemplateResolutionError(f"Expression {expression!r} cannot be evaluated: {error}.") from error
