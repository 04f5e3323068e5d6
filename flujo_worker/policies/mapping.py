"""Control steps of maps: what the items are, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flujo_client.protocol.merging import MergeRules, merge_contexts
from flujo_client.protocol.payloads import evaluate
from flujo_worker.policies.control import ControlCall, ControlEnd

__all__ = ["gather_items", "list_items"]

_MISSING = object()


async def list_items(call: ControlCall) -> ControlEnd:
    """Store each item as a payload of its own, so that no item costs more because there are many.

    Raises:
        ValueError: The context has no such field.
        TypeError: What it has, or the input, cannot be iterated over.
    """
    name = call.task.arguments["iterable_input"]
    found = call.value if name is None else _field(call, name)
    place = "its input" if name is None else f"'{name}' of the context"
    if found is _MISSING:
        raise ValueError(f"The context has no field '{name}' to map over")
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise TypeError(f"{place} is a {type(found).__name__}, which has no items to map over")
    items = list(found)
    await call.store.stash(items)
    return ControlEnd(verdict={"count": len(items)})


async def gather_items(call: ControlCall) -> ControlEnd:
    """Put the outputs of a slice of items into one list, and merge their contexts into what the slices before made.

    Raises:
        ContextMergeError: Two items set different values.
    """
    arguments, branches = call.task.arguments, dict(call.branches)
    outputs = [None if part is None else evaluate(part, call.value.__getitem__) for part in arguments["outputs"]]
    given = branches.pop("", None)
    if given is None:
        return ControlEnd(outputs=(outputs,))
    rules = MergeRules(call.task.merge, arguments["numbers"])
    return ControlEnd(outputs=(outputs,), context=merge_contexts(given, branches, rules))


def _field(call: ControlCall, name: str) -> Any:
    return getattr(call.context, name, call.base.get(name, _MISSING))
