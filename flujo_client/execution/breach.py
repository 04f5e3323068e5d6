"""What ends a run whose budget could not pay: the limit's own words, and the facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.paths import control_of, node_of, parent_of
from flujo_client.protocol.quota import COST, parse_amounts, to_usd
from flujo_client.protocol.results import RunStatus

__all__ = ["end_over_budget"]


def end_over_budget(draft: Draft, path: str, fields: Mapping[str, str]) -> None:
    """End the run: an attempt asked for, or used, more than its accounts could get.

    Args:
        path: The attempt's.
        fields: Of the event: account, meter, asked and free of a refusal; or the overrun of an attempt that ended.
    """
    meter = fields.get("meter") or _first_meter(fields["overrun"])
    limit, account = _limit(draft, path, meter, fields)
    if meter == COST:
        message = f"Cost limit of ${to_usd(limit):g} exceeded"
    elif meter == "tokens":
        message = f"Token limit of {limit} exceeded"
    else:
        message = f"Limit of {limit} {meter} exceeded"
    details = {key: fields[key] for key in ("asked", "free", "overrun") if key in fields}
    error: dict[str, Any] = {
        "type": "UsageLimitExceededError",
        "message": message,
        "data": {"run_id": draft.run.run_id, "path": path, "account": account, "meter": meter, **details},
        "suggestion": _story(draft, path, meter, fields),
    }
    if draft.state(path).status is not NodeStatus.SUCCEEDED:
        draft.update(path, status=NodeStatus.FAILED, error=error)
    _fail_around(draft, path, error)
    draft.end(RunStatus.FAILED, error)


def _fail_around(draft: Draft, path: str, error: dict[str, Any]) -> None:
    """The composites around a step fail with it, so that the result shows what they had done."""
    at = node_of(path)
    while at != "root":
        if draft.state(at).status is NodeStatus.RUNNING:
            draft.update(at, status=NodeStatus.FAILED, error=error)
        at = parent_of(at)[0]


def _limit(draft: Draft, path: str, meter: str, fields: Mapping[str, str]) -> tuple[int, str]:
    """The limit that was met, and whose it is: the run's, or the step's own."""
    if "limit" in fields:  # of a named account above the run
        return int(fields["limit"]), fields["account"]
    own = {} if control_of(path)[0] else draft.step(path).usage_limits
    refused_by = fields.get("account")
    used = draft.state(path).usage.get(meter, 0)
    if meter in own and (
        refused_by == path or (refused_by is None and used > own[meter]) or meter not in draft.run.limits
    ):
        return own[meter], path
    return draft.run.limits[meter], refused_by or draft.accounts(path)[0]


def _first_meter(overrun: str) -> str:
    """The meter to name: cost, where several are over."""
    return min(parse_amounts(overrun), key=lambda meter: (meter != COST, meter))


def _story(draft: Draft, path: str, meter: str, fields: Mapping[str, str]) -> str:
    """Which step met the limit, and by how much."""
    place = f"(run {draft.run.run_id}, step '{draft.name(path)}' at {path}: "
    if "asked" in fields:
        asked = f"it asked for {fields['asked']} {meter}, and account {fields['account']} could get {fields['free']})"
        return f"{place}{asked} Raise the run's usage_limits, or lower what the step expects to use."
    over = f"it used {parse_amounts(fields['overrun'])[meter]} {meter} more than its budget had)"
    return (
        f"{place}{over} Raise the run's usage_limits, or what the step expects, so that it is refused before it starts."
    )
