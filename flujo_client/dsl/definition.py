"""`Definition`: what a step's agent and terms say about it, as compositions and workers read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from flujo_client.dsl.callables import Signature, check_injection, inspect_callable, reference_of
from flujo_client.dsl.config import StepConfig
from flujo_client.dsl.skills import resolve_agent
from flujo_client.protocol.attachments import AgentProcessors, Attachments
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.leaves import TurnSpec

__all__ = ["Definition"]


class Definition:
    """The part of `Step` that is a `StepDefinition`: the agent, analysed, and what is attached to it."""

    if TYPE_CHECKING:
        name: str
        agent: Any
        config: StepConfig
        plugins: list[tuple[Any, int]]
        validators: list[Any]
        processors: AgentProcessors
        static_invariants: list[Any]
        input_: Any
        meta: dict[str, Any]
        _of_function: bool

    @property
    def resolved_agent(self) -> Any:
        """See `StepDefinition.resolved_agent`."""
        return self._resolved[1]

    @property
    def signature(self) -> Signature:
        """The function, analysed."""
        return self._resolved[2]

    @property
    def _resolved(self) -> tuple[Any, Any, Signature]:
        """The agent as given, the agent itself, and its signature; anew if the agent was set since."""
        known = self.__dict__.get("_known")
        if known is None or known[0] is not self.agent:
            agent = resolve_agent(self.agent, self.name)
            signature = inspect_callable(agent, self.name)
            if not self._of_function:
                check_injection(agent, self.name)
            known = self.__dict__["_known"] = (self.agent, agent, signature)
        return known

    @property
    def attachments(self) -> Attachments:
        """See `StepDefinition.attachments`."""
        return Attachments(
            plugins=tuple(plugin for plugin, _ in sorted(self.plugins, key=lambda entry: -entry[1])),
            validators=(*self.processors.validators, *self.validators),
            prompt_processors=tuple(self.processors.prompt_processors),
            output_processors=tuple(self.processors.output_processors),
            invariants=tuple(rule for rule in self.static_invariants if not isinstance(rule, str)),
        )

    @property
    def template(self) -> Any:
        """What takes the place of the output of the step before; None: nothing does."""
        return self.input_

    @property
    def is_adapter(self) -> bool:
        """Whether the step may stand between two whose types do not fit."""
        return bool(self.meta.get("is_adapter"))

    @property
    def function(self) -> str:
        """See `StepDefinition.function`."""
        return reference_of(self.agent, self.name, attached=bool(self.attachments))

    @property
    def call(self) -> Callable[..., Any]:
        """See `StepDefinition.call`."""
        return self.signature.call

    @property
    def stream_call(self) -> Callable[..., Any] | None:
        """See `StepDefinition.stream_call`."""
        return self.signature.stream

    @property
    def is_async(self) -> bool:
        """See `StepDefinition.is_async`."""
        return self.signature.is_async

    @property
    def injects(self) -> frozenset[str]:
        """See `StepDefinition.injects`."""
        return self.signature.injects

    @property
    def input_type(self) -> Any:
        """The annotation of the function's first parameter; `Any` where there is no function, which is another fault."""
        return self._declared("input_type")

    @property
    def wanted_type(self) -> Any:
        """What another step's output has to be, if it stands before this one."""
        return self.input_type

    @property
    def output_type(self) -> Any:
        """The annotation of what the function returns; `Any` where there is no function."""
        return self._declared("output_type")

    def _declared(self, what: Literal["input_type", "output_type"]) -> Any:
        try:
            signature = self.signature
        except ConfigurationError:
            return Any
        return signature.input_type if what == "input_type" else signature.output_type

    @property
    def turn(self) -> TurnSpec | None:
        """What it keeps between its turns; None: it has no turns."""
        return None

    @property
    def turn_facts(self) -> Mapping[str, Mapping[str, Any]]:
        """See `StepDefinition.turn_facts`."""
        return {}

    @property
    def in_background(self) -> bool:
        """Whether the pipeline goes on beside it, with its input."""
        return self.config.execution_mode == "background"

    @property
    def context_type(self) -> Any:
        """The annotation of its `context` parameter."""
        return self.signature.context_type
