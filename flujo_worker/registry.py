"""What a worker can run: the steps of the pipelines in its modules. Nothing else is ever called."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.hooks import Hook
from flujo_client.protocol.messages import CONTROL_PREFIX
from flujo_client.protocol.modules import import_pipelines
from flujo_client.protocol.references import StateProvider
from flujo_client.protocol.results import PipelineContext
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.types import ControlDefinition, PipelineDefinition, StepDefinition

__all__ = ["Registry", "StepPolicy"]

logger = logging.getLogger(__name__)

#: What a user puts around steps' functions; see `flujo_worker.policies.stack.Policy`.
StepPolicy = Callable[[Any, Callable[[Any], Awaitable[Any]]], Coroutine[Any, Any, Any]]

_Callable = StepDefinition | ControlDefinition


class Registry:
    """Steps by function reference, and the specs of the pipelines they came from.

    Attributes:
        hooks: Called beside the step, on the worker.
        policies: Around every step's function, the first outermost: callables of a `StepCall` and the function to go on with.
        state_providers: Of what the references in contexts point to, by id.
        resources: Handed to steps that ask for `resources`.
        context_model: Of the context of steps that change it without asking for it, where their module names none.
    """

    def __init__(
        self,
        *,
        hooks: Iterable[Hook] = (),
        policies: Iterable[StepPolicy] = (),
        state_providers: Mapping[str, StateProvider] | None = None,
        resources: Any = None,
        context_model: type[BaseModel] = PipelineContext,
    ) -> None:
        self._steps: dict[str, StepDefinition] = {}
        self._controls: dict[str, ControlDefinition] = {}
        self._specs: dict[str, PipelineSpec] = {}
        self.hooks: list[Hook] = list(hooks)
        self.policies: list[StepPolicy] = list(policies)
        self.state_providers: dict[str, StateProvider] = dict(state_providers or {})
        self.resources = resources
        self.context_model = context_model
        self._context_models: dict[str, type[BaseModel]] = {}

    @classmethod
    def from_modules(cls, names: str) -> Registry:
        """Import modules and take every pipeline at their top level; and what else it offers.

        A module may set `flujo_hooks` and `flujo_policies` (lists), `flujo_state_providers` (a dict), `flujo_resources`,
        and `flujo_context_model` (a pydantic model).

        Args:
            names: Module names, comma separated.

        Raises:
            ConfigurationError: A module cannot be imported, runs a pipeline meanwhile, or has none.
        """
        registry = cls()
        for name in filter(None, (part.strip() for part in names.split(","))):
            module = import_pipelines(name)
            pipelines = [
                value
                for value in vars(module).values()
                if isinstance(value, PipelineDefinition) and not isinstance(value, type)
            ]
            if not pipelines:
                raise ConfigurationError(
                    f"Module '{name}' has no pipeline at its top level.",
                    suggestion='Assign one there: digest = Pipeline(name="digest", steps=[...]).',
                )
            for pipeline in pipelines:
                registry.add(pipeline, getattr(module, "flujo_context_model", None))
            _refuse_unnamed(name, registry)
            registry.hooks += getattr(module, "flujo_hooks", [])
            registry.policies += getattr(module, "flujo_policies", [])
            registry.state_providers |= getattr(module, "flujo_state_providers", {})
            registry.resources = getattr(module, "flujo_resources", registry.resources)
        return registry

    def add(self, pipeline: PipelineDefinition, context_model: type[BaseModel] | None = None) -> PipelineSpec:
        """Take a pipeline's steps in. A pipeline without a name adds its steps but is not published.

        Args:
            context_model: Of its runs; default: the registry's.

        Raises:
            ConfigurationError: Two different objects would have the same name.
        """
        for function, step in pipeline.step_definitions().items():
            self._refuse_other(function, self._steps.get(function), step)
            self._steps[function] = step
        for function, control in pipeline.control_definitions().items():
            self._refuse_other(function, self._controls.get(function), control)
            self._controls[function] = control
        if context_model is not None:
            functions = (*pipeline.step_definitions(), *pipeline.control_definitions())
            self._context_models.update(dict.fromkeys(functions, context_model))
        spec = pipeline.to_spec()
        self._specs[spec.content_hash] = spec
        return spec

    def _refuse_other(self, function: str, known: _Callable | None, new: _Callable) -> None:
        if known is not None and not _same(known, new):
            raise ConfigurationError(
                f"Two different objects are known as '{function}'.",
                suggestion="An object is named by its class and its step: give the steps different names.",
            )

    def find(self, function: str) -> StepDefinition | None:
        """The step that a function reference names, or the first of several; None if this worker does not have it."""
        return self._steps.get(function.partition(" ")[0])

    def control(self, reference: str) -> ControlDefinition:
        """The function of a composite. Raises `KeyError` if this worker does not have it; see `has`."""
        return self._controls[reference]

    def context_model_for(self, declared: Any, reference: str = "", function: str = "") -> type[BaseModel]:
        """The model of a context.

        Args:
            declared: What a function's `context` parameter says; counts if that is a model.
            reference: Of the model of the sub-pipeline around the function; "" for none.
            function: Reference of a step, or of a composite's function, whose module may name a model; "" for none.
        """
        named = self._controls.get(reference)
        known = None if named is None else named.call
        models = (
            model
            for model in (declared, known)
            if isinstance(model, type) and issubclass(model, BaseModel) and model is not BaseModel
        )
        return next(models, self._context_models.get(function, self.context_model))

    def has(self, function: str) -> bool:
        """Whether this worker can run what a message names: a step and its invariants, or every function of a control step."""
        first, *others = function.split(" ")
        known = first.startswith(CONTROL_PREFIX) or first in self._steps
        return known and all(reference in self._controls for reference in others)

    def specs(self) -> Iterator[PipelineSpec]:
        """The specs to publish when the worker starts."""
        yield from self._specs.values()

    def functions(self) -> list[str]:
        """Every function reference that this worker can run."""
        return sorted([*self._steps, *self._controls])


def _same(known: _Callable, new: _Callable) -> bool:
    """Whether two definitions call the same function, or equal objects; and have the same attached to them."""
    if getattr(known, "attachments", None) != getattr(new, "attachments", None):
        return False
    mine, theirs = getattr(known.call, "__self__", None), getattr(new.call, "__self__", None)
    return known.call == new.call or (mine is not None and type(mine) is type(theirs) and mine == theirs)


def _refuse_unnamed(module: str, registry: Registry) -> None:
    """Refuse what has a name in this process only, a lambda say: no other worker would find it."""
    unnamed = [function.partition("@")[0] for function in registry.functions() if "@" in function]
    if unnamed:
        raise ConfigurationError(
            f"Module '{module}' has steps that cannot be queued: {', '.join(unnamed)}.",
            suggestion="Make each a function at the top level of a module; `flujo check` says more.",
        )
