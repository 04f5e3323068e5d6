"""Templates of users, `{{ context.name }}`, rendered in jinja2's sandbox: they may come with a spec from another machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from flujo_client.protocol.errors import TemplateResolutionError

__all__ = ["render"]

_ENVIRONMENT: Final = ImmutableSandboxedEnvironment(autoescape=False)


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template's text. What it names and is not there stands as nothing.

    Raises:
        TemplateResolutionError: It is no template, or reaches for what it must not.
    """
    try:
        return _ENVIRONMENT.from_string(template).render(values)
    except TemplateError as error:
        raise TemplateResolutionError(f"Template {template!r} cannot be rendered: {error}.") from error
