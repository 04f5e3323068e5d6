"""`CacheStep`: a step whose results are kept, and `InMemoryCache`, a cache of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, Field

from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.composites import composite
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.protocol.spec import CacheSpec

__all__ = ["CacheStep", "InMemoryCache"]


#: Values that one keeps.
_MOST_ENTRIES = 10_000


class InMemoryCache:
    """A cache of this process, of the ten thousand values that were set last; what a backend of a `CacheStep` looks like."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Any, float | None]] = {}

    async def get(self, key: str) -> Any:
        """What was set under a key; None if nothing was, or its time is over."""
        value, until = self._entries.get(key, (None, None))
        if until is not None and time.monotonic() >= until:
            del self._entries[key]
            return None
        return value

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keep a value, for so many seconds."""
        self._entries.pop(key, None)
        while len(self._entries) >= _MOST_ENTRIES:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, None if ttl is None else time.monotonic() + ttl)


@composite("cache")
class CacheStep(Composite):
    """A step whose results are kept: the same step on the same input, context and resources gives what it gave before.

    Only successes are kept. A hit costs nothing, sets `metadata_["cache_hit"]` and changes the context as the step did. Of
    several runs that want the same at once, one makes it and the others wait, without holding a worker.

    Attributes:
        wrapped_step: Any step.
        cache_backend: With `get(key)` and `set(key, value, ttl)`, sync or async; what it raises is logged and costs the hit
            only. None: the Redis of the installation, shared by all workers.
        ttl_s: How long results are kept.
        lease_s: How long the others wait for the one that makes it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    wrapped_step: Any
    cache_backend: Any = None
    ttl_s: float = Field(3600.0, gt=0)
    lease_s: float = Field(60.0, gt=0)

    @property
    def body(self) -> Pipeline:
        """The step as a pipeline."""
        return as_pipeline(self.wrapped_step)

    @property
    def input_type(self) -> Any:
        """What the step takes."""
        return self.body.input_type

    @property
    def output_type(self) -> Any:
        """What the step returns."""
        return self.body.output_type

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the step."""
        return {"body": self.body}

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`: the backend's functions."""
        return self._functions

    @cached_property
    def _functions(self) -> dict[str, Callable[..., Any]]:
        """Kept, since each look at a method makes another object, and what has no importable name is known by it."""
        if self.cache_backend is None:
            return {}
        return {"read": self.cache_backend.get, "write": self.cache_backend.set}

    def to_node(self) -> CacheSpec:
        """The step as a spec's node."""
        return CacheSpec(
            name=self.name,
            body=self.body.to_sequence(),
            read=self.reference("read"),
            write=self.reference("write"),
            ttl_ms=round(self.ttl_s * 1000),
            lease_ms=round(self.lease_s * 1000),
        )


@composite("cached")
def cached(step: Step[Any, Any] | Pipeline, cache_backend: Any = None, **options: Any) -> CacheStep:
    """A step whose results are kept, under the step's own name."""
    name = options.pop("name", None) or step.name or "cached"
    return CacheStep(name=name, wrapped_step=step, cache_backend=cache_backend, **options)
