"""A run's context as stored: a snapshot and the deltas since. One writer per branch; a step commits its own delta.

A payload of context is `{"set": {key: value}, "unset": [key, ...]}`; a snapshot sets every key. Keys are those of the
top level, and of `step_outputs` none: outputs are payloads of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from flujo_client.protocol.errors import ContextIsolationError

__all__ = ["SNAPSHOT_AFTER", "ContextData", "delta_between", "fold_context", "snapshot_of"]

#: A context as plain data.
ContextData = dict[str, Any]

#: Deltas after which a step commits a snapshot instead.
SNAPSHOT_AFTER = 8


def snapshot_of(data: ContextData) -> dict[str, Any]:
    """The payload that sets a whole context."""
    return {"set": data, "unset": []}


def delta_between(before: ContextData, after: ContextData) -> dict[str, Any] | None:
    """The payload that turns one context into another; None if they are equal."""
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    gone = sorted(key for key in before if key not in after)
    return {"set": changed, "unset": gone} if changed or gone else None


def fold_context(payloads: Iterable[Mapping[str, Any]]) -> ContextData:
    """The context that a snapshot and its deltas make, as a copy of its own.

    Raises:
        ContextIsolationError: Something in it cannot be copied; in process only, where values are live objects.
    """
    data: ContextData = {}
    for payload in payloads:
        data.update(payload["set"])
        for key in payload["unset"]:
            data.pop(key, None)
    try:
        return deepcopy(data)
    except (TypeError, RecursionError) as error:
        raise ContextIsolationError(
            f"The context cannot be copied for an attempt of its own: {error}.",
            suggestion="Keep what cannot be copied in resources, or behind a ContextReference.",
        ) from error
