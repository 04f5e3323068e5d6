"""`DynamicParallelRouterStep`: branches that a router names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from pydantic import ConfigDict

from flujo_client.dsl.composites import composite
from flujo_client.dsl.config import MergeStrategy
from flujo_client.dsl.parallel import ParallelStep
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.protocol.spec import RouterSpec

__all__ = ["DynamicParallelRouterStep"]


@composite("router")
class DynamicParallelRouterStep(ParallelStep):
    """Those branches that a router names run as those of a `ParallelStep`, on the input that the router got.

    Attributes:
        router_agent: A function, or an object with `run`, or a step. It runs as the step `<name>_router` and returns the
            name of a branch or a list of names; names that no branch has are dropped. With none left the output is {}.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", ignored_types=(cached_property,))

    router_agent: Any
    merge_strategy: MergeStrategy | Callable[..., Any] = MergeStrategy.NO_MERGE

    @cached_property
    def router(self) -> Step[Any, Any]:
        """The router as a step."""
        name = f"{self.name}_router"
        if isinstance(self.router_agent, Step):
            return self.router_agent.model_copy(update={"name": name})
        return Step.from_callable(self.router_agent, name=name)

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the router, and the branches."""
        return {self.router.name: Pipeline([self.router]), **super().parts()}

    def to_node(self) -> RouterSpec:  # type: ignore[override]  # it holds the node of a parallel step
        """The step as a spec's node."""
        router = Pipeline([self.router]).to_sequence()
        return RouterSpec(name=self.name, router=router, parallel=super().to_node())
