"""`Composite`: what steps that hold pipelines have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict

from flujo_client.dsl.callables import reference_of
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.protocol.types import describe_type

__all__ = ["Composite", "as_pipeline", "as_pipelines"]


class Composite(Step[Any, Any]):
    """A step that holds pipelines."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @property
    def is_complex(self) -> bool:
        """True: it holds other steps."""
        return True

    @property
    def input_type(self) -> Any:
        """What all its parts take, if they agree."""
        declared = [part.input_type for part in self.parts().values()]  # read once: a part reads it of its own parts
        types = {describe_type(one): one for one in declared}
        return next(iter(types.values())) if len(types) == 1 else Any

    def entries(self) -> Mapping[str, Pipeline]:
        """See `Step.entries`: all parts."""
        return self.parts()

    @property
    def output_type(self) -> Any:
        """Not known before it runs."""
        return Any

    def reference(self, role: str) -> str | None:
        """The name by which a spec refers to a function of its own; None if it has no such function."""
        function = self.controls().get(role)
        return None if function is None else reference_of(function, self.name)


def as_pipeline(part: Step[Any, Any] | Pipeline) -> Pipeline:
    """A step as a pipeline of one; a pipeline as it is."""
    return part if isinstance(part, Pipeline) else Pipeline([part])


def as_pipelines(parts: Any) -> dict[Any, Pipeline]:
    """Branches by name, each as a pipeline. Raises `ValueError`: they have no names."""
    if not isinstance(parts, Mapping):
        told = f"branches have names, {{'a': step, 'b': pipeline}}; a {type(parts).__name__} has none"
        raise ValueError(told)  # noqa: TRY004 - pydantic, which calls it, tells ValueErrors as the step's own
    return {name: as_pipeline(part) for name, part in parts.items()}
