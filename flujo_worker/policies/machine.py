"""Control steps of state machines: which state follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["choose_state"]


async def choose_state(call: ControlCall) -> ControlEnd:
    """The first transition that applies says so; else `next_state` of the output, then of the context.

    What the context said counts once: a word left over from an earlier state must not steer a later one.

    Raises:
        NonRetryableError: There is no such state.
    """
    arguments = call.task.arguments
    target = await _by_transition(call)
    if target is None and arguments["outcome"] == "success":
        said = _said(call.value)
        target = said if said is not None else getattr(call.context, "next_state", None)
    if target is not None and target not in arguments["states"]:
        raise NonRetryableError(f"State '{arguments['state']}' leads to '{target}', which is no state.")
    goes_on = arguments["outcome"] == "pause" and target is None
    if not goes_on and getattr(call.context, "next_state", None) is not None:
        call.context.next_state = None
    return ControlEnd(verdict={"to": target})


async def _by_transition(call: ControlCall) -> str | None:
    arguments = call.task.arguments
    for place, edge in enumerate(arguments["transitions"]):
        if edge["source"] not in ("*", arguments["state"]) or edge["on"] != arguments["outcome"]:
            continue
        role = f"when{place}"
        if role not in call.functions or await call.call(role, call.value, call.context):
            return str(edge["target"])
    return None


def _said(output: Any) -> Any:
    return output.get("next_state") if isinstance(output, Mapping) else getattr(output, "next_state", None)
