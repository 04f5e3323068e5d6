"""What ends a run whose budget could not pay: the limit's own words, and the facts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import Draft
from flujo_client.execution.paths import control_of, node_of, parent_of
from flujo_client.protocol.quota import COST, TOKENS, amount_words, limit_name, parse_amounts, usd_text
from flujo_client.protocol.results import RunStatus

__all__ = ["end_over_budget", "refused_call"]

#: Options of the command line that limit a run, and of a step that say what it expects, by meter.
_OPTIONS = {COST: "--budget-usd", TOKENS: "--budget-tokens"}
_ESTIMATES = {COST: "expected_cost_usd", TOKENS: "expected_tokens"}


def end_over_budget(draft: Draft, path: str, fields: Mapping[str, str]) -> None:
    """End the run: an attempt asked for, or used, more than its accounts could get.

    Args:
        path: The attempt's.
        fields: Of the event: account, meter, asked and free of a refusal; or usage and overrun of an attempt that ended. What it used is
            what it asked for then, and free what there was for it, its reservation included.
    """
    meter = fields.get("meter") or _first_meter(fields["overrun"])
    if "overrun" in fields:
        used, over = (parse_amounts(fields[name])[meter] for name in ("usage", "overrun"))
        fields = {**fields, "asked": str(used), "free": str(used - over)}
    limit = _limit(draft, path, meter, fields)
    if meter == COST:
        message = f"Cost limit of {usd_text(limit.amount)} exceeded"
    elif meter == TOKENS:
        message = f"Token limit of {limit.amount} exceeded"
    else:
        message = f"Limit of {limit.amount} {meter} exceeded"
    details: dict[str, Any] = {key: int(fields[key]) for key in ("asked", "free") if key in fields}
    details |= {"overrun": fields["overrun"]} if "overrun" in fields else {}
    facts = {"account": limit.account, "meter": meter, "limit": limit.amount, "limit_name": limit.name, **details}
    error: dict[str, Any] = {
        "type": "UsageLimitExceededError",
        "message": message,
        "data": {"run_id": draft.run.run_id, "path": path, "step": draft.name(path), **facts},
        "suggestion": _story(draft, path, meter, fields, limit),
    }
    if draft.state(path).status is not NodeStatus.SUCCEEDED:
        draft.update(path, status=NodeStatus.FAILED, error=error)
    _fail_around(draft, path, error)
    draft.end(RunStatus.FAILED, error)


def refused_call(draft: Draft, path: str, error: Mapping[str, Any]) -> dict[str, str]:
    """What a step was refused for a call that it was about to make; empty if it failed of something else.

    Of a named account the step's own words say all; and user code may raise this error with anything in it.
    """
    if error["type"] != "UsageLimitExceededError":
        return {}
    told = {name: error["data"].get(name) for name in ("account", "meter", "asked", "free")}
    limited = [*draft.run.limits, *_own_limits(draft, path)]
    ours = told["meter"] in limited and told["account"] in (path, *draft.accounts(path))
    if not ours or not all(type(told[name]) is int for name in ("asked", "free")):
        return {}
    return {name: str(value) for name, value in told.items()}


def _fail_around(draft: Draft, path: str, error: dict[str, Any]) -> None:
    """The composites around a step fail with it, so that the result shows what they had done."""
    at = node_of(path)
    while at != "root":
        if draft.state(at).status is NodeStatus.RUNNING:
            draft.update(at, status=NodeStatus.FAILED, error=error)
        at = parent_of(at)[0]


@dataclass(frozen=True, slots=True)
class _Limit:
    """The limit that was met: how much it is, the account that holds it, what it is called, and how it is raised."""

    amount: int
    account: str
    name: str
    remedy: str


def _limit(draft: Draft, path: str, meter: str, fields: Mapping[str, str]) -> _Limit:
    """Whose limit was met: a named account's, the step's own, or the run's."""
    name = limit_name(meter)
    if "limit" in fields:
        account = fields["account"]
        remedy = f"Raise it with `flujo accounts set {account}`, wait for its next window, or define it with --wait"
        return _Limit(int(fields["limit"]), account, f"the {_word(meter)} limit of account {account}", remedy)
    own = _own_limits(draft, path)
    refused_by = fields.get("account")
    used = draft.state(path).usage.get(meter, 0)
    if meter in own and (
        refused_by == path or (refused_by is None and used > own[meter]) or meter not in draft.run.limits
    ):
        return _Limit(own[meter], path, f"{name} of the step", f"Raise {name} of the step's usage_limits")
    option = _OPTIONS.get(meter, f"--budget {meter}=N")
    remedy = f"Raise {name} of the run's usage_limits ({option})"
    return _Limit(draft.run.limits[meter], refused_by or draft.accounts(path)[0], f"{name} of the run", remedy)


def _own_limits(draft: Draft, path: str) -> Mapping[str, int]:
    return {} if control_of(path)[0] else draft.step(path).usage_limits


def _word(meter: str) -> str:
    return "cost" if meter == COST else meter


def _first_meter(overrun: str) -> str:
    """The meter to name: cost, where several are over."""
    return min(parse_amounts(overrun), key=lambda meter: (meter != COST, meter))


def _story(draft: Draft, path: str, meter: str, fields: Mapping[str, str], limit: _Limit) -> str:
    """Which step met the limit, by how much, and what to do."""
    place = f"(run {draft.run.run_id}, step '{draft.name(path)}' at {path}: "
    known, expected = f"{limit.name} is {amount_words(meter, limit.amount)}", _ESTIMATES.get(meter, "expected_meters")
    asked, free = (amount_words(meter, int(fields[name])) for name in ("asked", "free"))
    if "overrun" not in fields:
        facts = f"it asked for {asked}, account {fields['account']} had {free} free; {known}"
        return f"{place}{facts}) {limit.remedy}, or lower what the step expects ({expected})."
    facts = f"it used {asked}, account {limit.account} had {free} for it; {known}"
    return f"{place}{facts}) {limit.remedy}, or what the step expects ({expected}), so that it is refused before it starts."
