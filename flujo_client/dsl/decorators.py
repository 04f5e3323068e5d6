"""`@step` and `@adapter_step`: functions as steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from flujo_client.dsl.pipeline import Step

__all__ = ["adapter_step", "step"]


@overload
def step(function: Callable[..., Any], /) -> Step[Any, Any]: ...
@overload
def step(*, name: str | None = None, **terms: Any) -> Callable[[Callable[..., Any]], Step[Any, Any]]: ...
def step(function: Callable[..., Any] | None = None, /, **terms: Any) -> Any:
    """Make a function a step: `@step`, or `@step(max_retries=2, timeout_s=30)`.

    Args:
        terms: As `Step.from_callable` takes them: its own, and the fields of `StepConfig`.
    """
    if function is not None:
        return Step.from_callable(function)
    return lambda decorated: Step.from_callable(decorated, **terms)


@overload
def adapter_step(function: Callable[..., Any], /) -> Step[Any, Any]: ...
@overload
def adapter_step(
    *, adapter_id: str, adapter_allow: str, **terms: Any
) -> Callable[[Callable[..., Any]], Step[Any, Any]]: ...
def adapter_step(function: Callable[..., Any] | None = None, /, **terms: Any) -> Any:
    """Make a function an adapter: a step between two whose types do not fit, which the type check lets pass.

    Args:
        terms: `adapter_id` and `adapter_allow`, both needed, and what `step` takes.

    Raises:
        ValueError: One of the two is missing.
    """
    if function is not None:
        return Step.from_callable(function, is_adapter=True, **terms)
    return lambda decorated: Step.from_callable(decorated, is_adapter=True, **terms)
