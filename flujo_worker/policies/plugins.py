"""Plugins: they judge a step's output, correct it, or send the input to another agent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flujo_client.protocol.attachments import PluginOutcome
from flujo_client.protocol.errors import InfiniteRedirectError, PluginError
from flujo_worker.policies.calling import UserCalls
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["PluginPolicy"]


class PluginPolicy:
    """Asks a step's plugins, those of the highest priority first.

    Args:
        calls: Of users' functions.
    """

    def __init__(self, calls: UserCalls) -> None:
        self._calls = calls

    def concerns(self, call: StepCall) -> bool:
        """See `SelectivePolicy`: steps with a plugin."""
        return bool(call.attachments.plugins)

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            PluginError: A plugin says that the output may not stand.
            InfiniteRedirectError: An agent would be asked a second time.
        """
        value = call.value
        output = await proceed(call)
        asked: list[Any] = [call.definition.resolved_agent]
        while call.attachments.plugins:
            output, elsewhere = await self._judge(call, value, output)
            if elsewhere is None:
                break
            redirected = call.definition.redirected(elsewhere)
            if any(redirected.resolved_agent is agent for agent in asked):
                raise InfiniteRedirectError(f"Redirect loop detected in step '{call.definition.name}'.")
            asked.append(redirected.resolved_agent)
            output = await proceed(replace(call, definition=redirected, value=value))
        return output

    async def _judge(self, call: StepCall, value: Any, output: Any) -> tuple[Any, Any]:
        """What the plugins made of an output, and whom to ask instead, if one of them says so."""
        data = {"input": value, "output": output}
        step = call.definition
        for plugin in call.attachments.plugins:
            outcome = await self._calls.call(
                call.attempt, getattr(plugin, "validate", plugin), data, context=call.context_model
            )
            if not isinstance(outcome, PluginOutcome):
                raise PluginError(
                    f"Plugin execution failed: {type(plugin).__name__} of step '{step.name}' returned a "
                    f"{type(outcome).__name__}, not a PluginOutcome."
                )
            if outcome.redirect_to is not None:
                return data["output"], outcome.redirect_to
            if not outcome.success and outcome.new_solution is None:
                raise PluginError(f"Plugin execution failed: Plugin validation failed: {outcome.feedback}")
            if outcome.new_solution is not None:
                data["output"] = outcome.new_solution
            if outcome.feedback is not None:
                data["feedback"] = outcome.feedback
        return data["output"], None
