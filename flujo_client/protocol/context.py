"""A run's context as stored: a snapshot and the deltas since. One writer per branch; a step commits its own delta.

A payload of context is `{"set": {key: value}, "unset": [key, ...]}`; a snapshot sets every key. Keys are those of the
top level, and of `step_outputs` none: outputs are payloads of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from flujo_client.protocol.errors import ContextMergeError

__all__ = ["SNAPSHOT_AFTER", "ContextData", "delta_between", "fold_context", "merge_contexts", "snapshot_of"]

#: A context as plain data.
ContextData = dict[str, Any]

#: Deltas after which a step commits a snapshot instead.
SNAPSHOT_AFTER = 8

#: What the engine itself sets in each branch, one after the other: no conflict.
_LAST_WINS = frozenset({"user_input"})

_NOT_MERGED = frozenset({"run_id", "initial_prompt", "status"})


def snapshot_of(data: ContextData) -> dict[str, Any]:
    """The payload that sets a whole context."""
    return {"set": data, "unset": []}


def delta_between(before: ContextData, after: ContextData) -> dict[str, Any] | None:
    """The payload that turns one context into another; None if they are equal."""
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    gone = sorted(key for key in before if key not in after)
    return {"set": changed, "unset": gone} if changed or gone else None


def fold_context(payloads: Iterable[Mapping[str, Any]]) -> ContextData:
    """The context that a snapshot and its deltas make, as a copy of its own."""
    data: ContextData = {}
    for payload in payloads:
        data.update(payload["set"])
        for key in payload["unset"]:
            data.pop(key, None)
    return deepcopy(data)


def merge_contexts(base: ContextData, branches: Mapping[str, ContextData], strategy: str) -> ContextData:
    """Merge what branches made of a context, in declared order.

    Args:
        base: The context before the split.
        branches: The context at the end of each branch, by name, in declared order.
        strategy: `context_update` and `error_on_conflict` refuse two different values of a key (the former not for
            numbers, which add their changes up, and lists, which are joined); `overwrite` takes the last,
            `keep_first` the first branch that changed the key.

    Raises:
        ContextMergeError: Names the key, both branches and both values.
    """
    merged = deepcopy(base)
    setter: dict[str, str] = {}
    for name, data in branches.items():
        for key, value in data.items():
            if key in _NOT_MERGED or (key in base and base[key] == value):
                continue
            first = setter.setdefault(key, name)
            if first == name or strategy == "overwrite" or key in _LAST_WINS:
                merged[key] = deepcopy(value)
            elif strategy != "keep_first":
                merged[key] = _merge_value(key, base.get(key), (first, merged[key]), (name, value), strategy)
    return merged


def _merge_value(key: str, base: Any, one: tuple[str, Any], other: tuple[str, Any], strategy: str) -> Any:
    mine, yours = one[1], other[1]
    if strategy == "context_update" and _number(mine) and _number(yours):
        return mine + yours - (base if _number(base) else 0)
    if mine == yours:
        return mine
    if strategy == "context_update":
        if isinstance(mine, bool) and isinstance(yours, bool):
            return mine or yours
        if isinstance(mine, list) and isinstance(yours, list):
            return mine + [item for item in yours if item not in mine]
        if isinstance(mine, dict) and isinstance(yours, dict):
            old = base if isinstance(base, dict) else {}
            return merge_contexts(old, {one[0]: mine, other[0]: yours}, strategy)
    raise ContextMergeError(
        f"Merge conflict for key '{key}'. Branches '{one[0]}' and '{other[0]}' set different values: {mine!r} and {yours!r}.",
        suggestion="Set a field_mapping, or a merge_strategy that decides, on the parallel step.",
        key=key,
        branches=[one[0], other[0]],
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
