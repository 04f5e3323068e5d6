"""Control steps of cached nodes: the lookup, and what becomes of a miss."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Any

import pydantic_core

from flujo_client.protocol.context import delta_between, fold_context, snapshot_of
from flujo_client.protocol.errors import PayloadError
from flujo_client.protocol.payloads import json_bytes
from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["give_up_lookup", "look_up", "store_result"]

logger = logging.getLogger(__name__)

#: Of the context: what differs from run to run although the work is the same.
_NOT_IN_KEY = ("run_id", "task_id", "parent_run_id")

#: Fields of the engine whose entries say when they were made; what somebody answered counts, when he did does not.
_DATED = ("hitl_history", "command_log")


async def look_up(call: ControlCall) -> ControlEnd:
    """Find what the same step made of the same input, context and resources; on a miss, take the right to make it."""
    arguments = call.task.arguments
    key = _key(call)
    found = await _guarded(call, "read", key) if "read" in call.functions else None
    if found is not None:
        return _hit(call, key, found["output"], found["context"])
    answer = await call.store.look_up(key, arguments["lease_ms"])
    if answer.found:
        return _hit(call, key, answer.value, answer.context)
    if answer.wait_ms:
        return ControlEnd(verdict={"wait_ms": answer.wait_ms})
    return ControlEnd(verdict={"hit": False, "key": key})


async def store_result(call: ControlCall) -> ControlEnd:
    """Cache what the body made, and what it changed in the context."""
    arguments = call.task.arguments
    change = delta_between(call.branches["before"], call.branches["after"])
    if "write" not in call.functions:
        await call.store.cache(arguments["key"], call.value, change, arguments["ttl_ms"])
        return ControlEnd()
    entry = {"output": call.value, "context": change}
    await _guarded(call, "write", arguments["key"], entry, arguments["ttl_ms"] / 1000)
    await call.store.give_up(arguments["key"])
    return ControlEnd()


async def give_up_lookup(call: ControlCall) -> ControlEnd:
    """Let somebody else make it."""
    await call.store.give_up(call.task.arguments["key"])
    return ControlEnd()


def _hit(call: ControlCall, key: str, output: Any, change: dict[str, Any] | None) -> ControlEnd:
    context = None if change is None else fold_context([snapshot_of(call.base), change])
    return ControlEnd(outputs=(output,), verdict={"hit": True, "key": key}, context=context)


async def _guarded(call: ControlCall, role: str, *arguments: Any) -> Any:
    """Ask the user's cache. What it raises is logged: a cache that does not work costs a hit, not the step."""
    answers: tuple[Any, ...] = await asyncio.gather(call.call(role, *arguments), return_exceptions=True)
    answer = answers[0]
    if not isinstance(answer, BaseException):
        return answer
    if not isinstance(answer, Exception):
        raise answer
    logger.warning("cache not used", exc_info=answer, extra={"run_id": call.run_id, "path": call.store.path})
    return None


def _key(call: ControlCall) -> str:
    context = {
        name: _undated(value) if name in _DATED else value
        for name, value in call.base.items()
        if name not in _NOT_IN_KEY
    }
    try:
        given = json_bytes([call.task.arguments["definition"], call.value, context])
    except PayloadError:  # in process anything may be an input: what cannot be compared is like nothing else
        given = json_bytes([call.run_id, call.store.path])
    resources = pydantic_core.to_json(call.resources, inf_nan_mode="constants", fallback=_shown)
    return hashlib.sha256(hashlib.sha256(given).digest() + resources).hexdigest()[:32]


def _undated(entries: Any) -> Any:
    """A context's history without the moments at which its entries were made."""
    if not isinstance(entries, list):
        return entries
    return [
        {name: value for name, value in entry.items() if name != "timestamp"} if isinstance(entry, dict) else entry
        for entry in entries
    ]


def _shown(value: Any) -> str:
    """Resources without a JSON form, such as connections, count by their class."""
    return f"{type(value).__module__}.{type(value).__qualname__}"
