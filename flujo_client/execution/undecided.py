"""What ends a run that cannot be decided: `advance()` has a fault, or the run's state is one that cannot be. Pure."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import pydantic_core

from flujo_client.execution.advance import advance
from flujo_client.execution.decision import Decision
from flujo_client.execution.result import assemble_result
from flujo_client.protocol.envelopes import describe_error
from flujo_client.protocol.errors import ExecutionError, RunCancelledError, SchemaMismatchError
from flujo_client.protocol.quota import COST, TOKENS, Amounts, to_usd
from flujo_client.protocol.results import RunStatus

__all__ = ["AGAIN_S", "MOST_TRIES", "bare_result", "end_undecided", "is_undecidable"]

#: How often a manager tries to decide a run, and how long it waits in between, in which another manager may.
MOST_TRIES = 3
AGAIN_S = 0.5

_DECIDES = (advance.__code__, assemble_result.__code__)


def is_undecidable(error: BaseException) -> bool:
    """Whether an error was raised by what decides, and not by what asks or stores: the same state raises it again.

    What a newer release wrote is not meant: such a run waits for a process that can read it.
    """
    if isinstance(error, SchemaMismatchError):
        return False
    return any(frame.f_code in _DECIDES for frame, _ in traceback.walk_tb(error.__traceback__))


def end_undecided(record: Mapping[str, str], error: BaseException) -> Decision:
    """End a run as it is: nothing more of it starts, what it has spent stays spent. One that was cancelled ends so.

    Args:
        record: Of the run.
        error: What was raised.
    """
    run_id = record["run_id"]
    status = RunStatus(record["ending"]) if record["gate"] == "cancelled" else RunStatus.FAILED
    kind = RunCancelledError if status is RunStatus.CANCELLED else ExecutionError
    failure = kind(
        f"Run {run_id} cannot go on: what happens next cannot be decided, {type(error).__name__}: {error}.",
        suggestion="This is a fault of Flujo or of a record in Redis, not of a step: report it with the manager's log; "
        "`flujo fork` goes on from what the run has committed.",
        run_id=run_id,
    )
    return Decision(applied=record["applied"], status=status, error=describe_error(failure))


def bare_result(record: Mapping[str, str], usage: Amounts) -> dict[str, Any]:
    """The result of a run whose steps cannot be told: how it ended, and what it used.

    Args:
        record: Of the run, which has ended.
        usage: By meter.
    """
    error = pydantic_core.from_json(record["error"]) if record.get("error") else None
    return {
        "step_history": [],
        "total_cost_usd": to_usd(usage.get(COST, 0)),
        "total_tokens": usage.get(TOKENS, 0),
        "final_pipeline_context": {"$context": []},
        "success": record["status"] == RunStatus.COMPLETED,
        "run_id": record["run_id"],
        "status": record["status"],
        "error": error,
        "usage": dict(usage),
    }
