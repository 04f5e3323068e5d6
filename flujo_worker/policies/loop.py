"""Control steps of loops: the first input, and after each iteration the exit condition with the mappers."""

from __future__ import annotations

from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["judge_iteration", "map_first_input"]


async def map_first_input(call: ControlCall) -> ControlEnd:
    """Make the input of the first iteration."""
    return ControlEnd(outputs=(await call.call("initial_mapper", call.value, call.context),))


async def judge_iteration(call: ControlCall) -> ControlEnd:
    """Ask the exit condition, and map the output: to that of the loop if it ends, else to the next iteration's input."""
    arguments = call.task.arguments
    leave = bool(await call.call("exit_condition", call.value, call.context))
    verdict = {"exit": leave}
    if leave or arguments["last"]:
        if "output_mapper" in call.functions:
            return ControlEnd((await call.call("output_mapper", call.value, call.context),), verdict)
    elif "iteration_mapper" in call.functions:
        mapped = await call.call("iteration_mapper", call.value, call.context, arguments["iterations"])
        return ControlEnd((mapped,), verdict)
    return ControlEnd(verdict=verdict)
