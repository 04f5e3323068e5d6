"""How the contexts of branches become one, in declared order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from flujo_client.protocol.context import ContextData
from flujo_client.protocol.errors import ContextMergeError

__all__ = ["MergeRules", "merge_contexts"]

_NOT_MERGED = frozenset({"run_id", "initial_prompt", "status"})

#: What the engine itself sets in each branch, one after the other: no conflict.
_LAST_WINS = frozenset({"user_input", "granular_state"})

#: Of these every branch's entries are kept by every strategy: each step writes its own.
_UNITED = "step_outputs"


@dataclass(frozen=True, slots=True)
class MergeRules:
    """What a merge does with keys that several branches changed.

    Attributes:
        strategy: `context_update` and `error_on_conflict` refuse two different values of a key (the former not for
            numbers, and for lists, which are joined, and dicts, which are merged); `overwrite` takes the last,
            `keep_first` the first branch that changed the key.
        numbers: What `context_update` does with two numbers: `sum` adds the changes up, `max` takes the larger one, and
            `conflict` treats them as any other value.
        field_mapping: The keys that count of a branch; of branches that it does not name, all.
    """

    strategy: str
    numbers: str = "sum"
    field_mapping: Mapping[str, Sequence[str]] = field(default_factory=dict)


def merge_contexts(
    base: ContextData, branches: Mapping[str, ContextData], rules: MergeRules, given: ContextData | None = None
) -> ContextData:
    """Merge what branches made of a context.

    Args:
        base: The context around the branches.
        branches: The context at the end of each branch, by name, in declared order.
        given: What the branches started with, if not the base.

    Raises:
        ContextMergeError: Names the key, both branches and both values.
    """
    before = base if given is None else given
    counting = {
        name: {
            key: value
            for key, value in data.items()
            if key not in _NOT_MERGED and key in rules.field_mapping.get(name, data)
        }
        for name, data in branches.items()
    }
    return _merge(base, before, counting, rules, "")


def _merge(
    base: ContextData, before: ContextData, branches: Mapping[str, ContextData], rules: MergeRules, place: str
) -> ContextData:
    merged = deepcopy(base)
    setter: dict[str, str] = {}
    for name, data in branches.items():
        for key, value in data.items():
            if key in before and before[key] == value:
                continue
            first = setter.setdefault(key, name)
            if first == name:
                merged[key] = deepcopy(value)
            else:
                two = {first: merged[key], name: value}
                merged[key] = _both(f"{place}{key}", before.get(key), two, rules)
    return merged


def _both(place: str, before: Any, two: Mapping[str, Any], rules: MergeRules) -> Any:
    """One value of the two that two branches set."""
    mine, yours = two.values()
    dicts = isinstance(mine, dict) and isinstance(yours, dict)
    if rules.strategy == "keep_first" and place not in _LAST_WINS:
        return {**yours, **mine} if dicts else mine
    if rules.strategy == "overwrite" or place in _LAST_WINS:
        return {**mine, **yours} if dicts and place == _UNITED else deepcopy(yours)
    summed = rules.strategy == "context_update"
    if summed and _number(mine) and _number(yours) and rules.numbers != "conflict":
        return max(mine, yours) if rules.numbers == "max" else mine + yours - (before if _number(before) else 0)
    if mine == yours:
        return mine
    if dicts and (summed or place == _UNITED):
        old = before if isinstance(before, dict) else {}
        return _merge(old, old, two, rules, f"{place}.")
    if summed and isinstance(mine, bool) and isinstance(yours, bool):
        return mine or yours
    if summed and isinstance(mine, list) and isinstance(yours, list):
        return mine + [item for item in yours if item not in mine]
    one, other = two
    raise ContextMergeError(
        f"Merge conflict for key '{place}'. Branches '{one}' and '{other}' set different values. "
        f"'{one}': {mine!r}, '{other}': {yours!r}.",
        suggestion="Set a field_mapping, or a merge_strategy that decides, on the parallel step.",
        key=place,
        branches=[one, other],
        values=[mine, yours],
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
