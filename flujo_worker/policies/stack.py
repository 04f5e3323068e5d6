"""What the policies of a step share, and how they are put around one another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from flujo_client.protocol.attachments import Attachments
from flujo_client.protocol.spec import StepSpec
from flujo_client.protocol.types import StepDefinition
from flujo_worker.attempt import Attempt
from flujo_worker.policies.step_context import StepContext

__all__ = ["Always", "Policy", "Proceed", "SelectivePolicy", "StepCall", "stacked"]


@dataclass(slots=True)
class StepCall:
    """One attempt of a step on its way through the policies.

    Attributes:
        value: The step's input, as far as it is prepared.
        context: The attempt's own copy; None if the step has nothing to do with the context.
        injected: What the step's function may ask for by keyword.
        findings: What validators said, as JSON values.
        attachments: Of the definition.
    """

    attempt: Attempt
    definition: StepDefinition
    value: Any = None
    context: StepContext | None = None
    injected: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    attachments: Attachments = field(init=False)

    def __post_init__(self) -> None:
        """Put together what is attached to the step, once for all policies."""
        self.attachments = self.definition.attachments

    @property
    def step(self) -> StepSpec:
        """The step's terms, as the run is pinned to them."""
        return self.attempt.task.step

    @property
    def context_model(self) -> Any:
        """The context as users' functions get it; None if the step has nothing to do with it."""
        return None if self.context is None else self.context.model


#: What a policy goes on with: the rest of the way, to the step's output.
Proceed = Callable[[StepCall], Awaitable[Any]]


class Policy(Protocol):
    """One concern of an attempt. It works on what goes in, on what comes out, or on both, and calls `proceed` between.

    Stateless between attempts. What it raises is how the attempt ends.
    """

    async def __call__(self, call: StepCall, proceed: Proceed, /) -> Any:
        """Return the step's output, as the policies outside this one get it."""


class SelectivePolicy(Protocol):
    """A policy that most steps have nothing to do with: it is asked first, as each that takes part costs every step its share."""

    def concerns(self, call: StepCall, /) -> bool:
        """Whether it takes part in this attempt."""

    def __call__(self, call: StepCall, proceed: Proceed, /) -> Awaitable[Any]:
        """As `Policy`."""


class Always:
    """A policy that takes part in every attempt.

    Args:
        policy: Which.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def concerns(self, _: StepCall, /) -> bool:
        """Yes."""
        return True

    def __call__(self, call: StepCall, proceed: Proceed, /) -> Awaitable[Any]:
        """As the policy itself."""
        return self._policy(call, proceed)


def stacked(policies: Iterable[SelectivePolicy], innermost: Proceed) -> Proceed:
    """The policies as one function, the first outermost."""
    way = innermost
    for policy in reversed(list(policies)):
        way = _around(policy, way)
    return way


def _around(policy: SelectivePolicy, proceed: Proceed) -> Proceed:
    def run(call: StepCall) -> Awaitable[Any]:
        return policy(call, proceed) if policy.concerns(call) else proceed(call)

    return run
