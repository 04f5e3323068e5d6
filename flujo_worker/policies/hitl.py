"""Questions to humans, on the worker: the question is rendered, and the answer goes into the context."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_jsonable_python

from flujo_client.protocol.errors import HitlPolicyError
from flujo_client.protocol.expressions import render_message
from flujo_client.protocol.pipeline_context import ExecutedCommandLog, stored_fields
from flujo_client.protocol.results import ConversationRole, ConversationTurn, HumanInteraction
from flujo_worker.attempt import AttemptEnd
from flujo_worker.policies.control import ControlCall, ControlEnd
from flujo_worker.policies.step_context import StepContext, set_in_context

__all__ = ["ask", "paused_attempt", "take_answer"]


def paused_attempt(message: str, context: StepContext | None) -> AttemptEnd:
    """How an attempt ends that asks a human; what the step changed in the context until then is kept.

    Raises:
        HitlPolicyError: FLUJO_ALLOW_HITL=0 forbids it.
    """
    if os.environ.get("FLUJO_ALLOW_HITL") == "0":
        raise HitlPolicyError(
            "A step asks a human, which FLUJO_ALLOW_HITL=0 forbids.", suggestion="Unset it where people may be asked."
        )
    change = context.change() if context is not None else None
    return AttemptEnd("paused", context=change, verdict={"message": message}, stores=False)


async def ask(call: ControlCall) -> ControlEnd:
    """Render the question; without a template it is the input as text."""
    template = call.task.arguments["message"]
    if template is None:
        return ControlEnd(question=str(call.value))
    return ControlEnd(question=render_message(template, {"previous_step": call.value, "context": call.context}))


async def take_answer(call: ControlCall) -> ControlEnd:
    """Write the answer where people look for it, as far as the context's model has the place; it is the output as well.

    Raises:
        ContextError: It does not fit the field it is to be sunk into.
    """
    message, answer = call.task.arguments["message"], call.value
    if "default" in call.task.arguments:  # nobody answered in time
        answer = call.typed(call.task.producer_function, call.task.arguments["default"]["answer"])
    told = HumanInteraction(message_to_human=message, human_response=answer, timestamp=datetime.now(UTC))
    turns = [
        ConversationTurn(role=ConversationRole.ASSISTANT, content=message),
        ConversationTurn(role=ConversationRole.USER, content=str(answer)),
    ]
    _extend(call.context, "hitl_history", [told])
    _extend(call.context, "conversation_history", turns)
    log = getattr(call.context, "command_log", None)
    if isinstance(log, list):
        command = to_jsonable_python(call.beside().get("input"), fallback=str)
        entry = ExecutedCommandLog(turn=len(log) + 1, generated_command=command, execution_result=answer)
        _extend(call.context, "command_log", [entry])
    if hasattr(call.context, "user_input"):
        call.context.user_input = answer
    sink_to = call.task.arguments["sink_to"]
    if sink_to is not None:
        set_in_context(call.context, sink_to, answer)
    return ControlEnd(
        (answer,), context=stored_fields(call.context)
    )  # whole: the pause's own change lies in the same place


def _extend(context: Any, field: str, items: list[Any]) -> None:
    known = getattr(context, field, None)
    if isinstance(known, list):
        setattr(context, field, [*known, *items])
