"""Static invariants: what must hold after every step that succeeded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from flujo_client.protocol.errors import FlujoError, InvariantViolatedError
from flujo_client.protocol.expressions import evaluate
from flujo_worker.policies.calling import UserCalls
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["InvariantPolicy"]

#: What a function calls its only parameter if it means the output.
_OUTPUT_NAMES = ("output", "out", "result", "value", "data")


class InvariantPolicy:
    """Checks a step's invariants, and those of its pipeline, after its output was put into the context.

    Args:
        calls: Of users' functions.
        registry: Which has the functions of pipelines.
    """

    def __init__(self, calls: UserCalls, registry: Registry) -> None:
        self._calls = calls
        self._registry = registry

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with an invariant."""
        return bool(call.step.invariants or call.attachments.invariants or call.step.invariant_functions)

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`. Raises `InvariantViolatedError`, which fails the step."""
        output = await proceed(call)
        violations = []
        of_pipelines = [self._registry.control(reference).call for reference in call.step.invariant_functions]
        for rule in (*call.step.invariants, *call.attachments.invariants, *of_pipelines):
            reason = await self._violation(call, rule, output)
            if reason is not None:
                violations.append({"rule": _name_of(rule), "reason": reason})
        if violations:
            call.attempt.metadata["invariant_violations"] = violations
            rules = "; ".join(violation["rule"] for violation in violations)
            raise InvariantViolatedError(f"Invariant violated: {rules}")
        return output

    async def _violation(self, call: StepCall, rule: str | Callable[..., Any], output: Any) -> str | None:
        """Why a rule does not hold; None if it does. A rule that cannot be evaluated does not hold."""
        try:
            if isinstance(rule, str):
                holds = evaluate(rule, {"output": output, "context": call.context_model})
            else:
                holds = await self._calls.call(call.attempt, rule, *_arguments(rule, output, call.context_model))
        except FlujoError as error:
            return str(error)
        return None if holds else "it does not hold"


def _arguments(rule: Callable[..., Any], output: Any, context: Any) -> tuple[Any, ...]:
    names = list(inspect.signature(rule).parameters)
    if len(names) == 1:
        return (output,) if names[0] in _OUTPUT_NAMES or context is None else (context,)
    return (output, context)


def _name_of(rule: str | Callable[..., Any]) -> str:
    return rule if isinstance(rule, str) else getattr(rule, "__name__", repr(rule))
