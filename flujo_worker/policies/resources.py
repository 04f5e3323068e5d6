"""What steps share on a worker: handed to steps that ask for `resources`; entered and left once per attempt."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["ResourcesPolicy"]


class ResourcesPolicy:
    """Offers the worker's resources.

    Args:
        registry: Which has them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: every step, where there are resources."""
        return self._registry.resources is not None

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises whatever entering or leaving them raises."""
        async with _entered(self._registry.resources) as resources:
            call.injected["resources"] = resources
            return await proceed(call)


@asynccontextmanager
async def _entered(resources: Any) -> AsyncIterator[Any]:
    """Resources for the time of one attempt. They are told of its error, and cannot make it a success."""
    if hasattr(type(resources), "__aenter__"):
        await resources.__aenter__()
        try:
            yield resources
        finally:
            await resources.__aexit__(*sys.exc_info())
    elif hasattr(type(resources), "__enter__"):
        resources.__enter__()
        try:
            yield resources
        finally:
            resources.__exit__(*sys.exc_info())
    else:
        yield resources
