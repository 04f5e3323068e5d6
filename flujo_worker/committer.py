"""`Committer`: brings the end of an attempt into Redis, however long Redis stays away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from flujo_client.protocol.envelopes import describe_error, withhold_text
from flujo_client.protocol.errors import (
    ConfigurationError,
    ContextInheritanceError,
    ControlFlowError,
    FlujoError,
    GranularResumeError,
    PayloadError,
    SchemaMismatchError,
    StateUnavailableError,
    TypeMismatchError,
    UsageLimitExceededError,
)
from flujo_client.protocol.payloads import PayloadCodec, json_bytes
from flujo_client.protocol.replies import Committed
from flujo_client.protocol.scripts import Scripts
from flujo_worker.attempt import Attempt, AttemptEnd

__all__ = ["Committer"]

logger = logging.getLogger(__name__)

#: Attempt errors that another attempt cannot mend, and that end the run by being raised from it.
_FATAL = (TypeMismatchError, ConfigurationError, UsageLimitExceededError, ControlFlowError, GranularResumeError)

#: Errors whose text names settings, limits and sizes, and no values: told also where payloads are encrypted.
_WITHOUT_VALUES = (ConfigurationError, UsageLimitExceededError, GranularResumeError, PayloadError, SchemaMismatchError)

_COMMIT_RETRY_S = 0.5

#: What is stored of a step's result; the rest the run's nodes have.
_TOLD = {"name", "latency_s", "feedback", "metadata_"}

T = TypeVar("T")


class Committer:
    """Stores ends of attempts.

    Args:
        scripts: On a connection of the coordinator's loop.
        codec: Of the payloads.
        broker_list: The broker's list of a queue, where scripts may publish into it; "" where they may not.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, broker_list: Callable[[str], str]) -> None:
        self._scripts = scripts
        self._broker_list = broker_list
        self._codec = codec

    async def commit(self, attempt: Attempt, end: AttemptEnd) -> None:
        """Commit until Redis answers: what was paid for must not be lost while Redis restarts.

        An end that cannot be stored becomes a failure that says so; `lost` if Redis did not take it. An attempt that was
        handed over commits nothing: its lease goes to another worker, with what is known to be used; one that was never begun used
        nothing else.
        """
        claim, owner = attempt.claim, attempt.reserved.owner
        if end.outcome == "handed_over":
            reason = "handed_over" if attempt.begun else "stranger"
            await self._until_answered(attempt, lambda: self._scripts.lose(claim, owner, reason, end.usage))
            return
        try:
            terms = self._encode(attempt, end)
        except PayloadError as error:
            self._refuse_output(attempt, end, error)
            terms = self._encode(attempt, end)
        answer = await self._until_answered(
            attempt, lambda: self._scripts.commit(claim, owner, kind=end.outcome, usage=end.usage, **terms)
        )
        if not isinstance(answer, Committed):
            end.outcome = "lost"
            logger.warning("outcome not taken: the lease was lost or the run has ended", extra=attempt.ids)
        elif attempt.task.step.estimate_quantile is not None and not attempt.task.control:
            await self._learn(attempt, end)

    async def _learn(self, attempt: Attempt, end: AttemptEnd) -> None:
        """Note what the attempt used, for the estimates of those that follow; what failed before it used anything teaches nothing."""
        if not end.usage and end.outcome != "succeeded":
            return
        try:
            await self._scripts.learn(attempt.ref.label, attempt.claim.nonce, end.usage)
        except StateUnavailableError as failure:
            logger.info("what was used is not learned from", extra={**attempt.ids, "error": str(failure)})

    async def abort(self, attempt: Attempt, reason: str) -> None:
        """End the attempt's run as aborted, however long Redis stays away."""
        run_id, owner = attempt.ref.run_id, attempt.reserved.owner
        told = "a hook aborted it" if self._codec.private else reason
        await self._until_answered(attempt, lambda: self._scripts.abort(run_id, owner, told))

    async def _until_answered(self, attempt: Attempt, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except StateUnavailableError as failure:
                logger.warning("outcome not committed yet, trying again", extra={**attempt.ids, "error": str(failure)})
                await asyncio.sleep(_COMMIT_RETRY_S)

    def _encode(self, attempt: Attempt, end: AttemptEnd) -> dict[str, Any]:
        result, error = end.result, end.error
        assert result is not None
        data: dict[str, Any] = {"latency_ms": round(result.latency_s * 1000)}
        before = attempt.reserved.remaining
        if before:
            estimate = attempt.task.step.estimate
            data["quota_before"] = {meter: left + estimate.get(meter, 0) for meter, left in before.items()}
        if error is not None:
            private = self._codec.private and not isinstance(error, _WITHOUT_VALUES)
            data["error"] = withhold_text(error) if private else describe_error(error, result.feedback or "")
            if attempt.role:
                data["error"]["role"] = attempt.role
            data["retryable"] = not isinstance(error, FlujoError) or error.retryable
            data["fatal"] = isinstance(error, ContextInheritanceError if attempt.task.control else _FATAL)
        stores = end.stores and end.outcome in ("succeeded", "failed")
        if stores and end.outcome == "failed":
            data["keeps_output"] = True
        if end.verdict:
            data["verdict"] = end.verdict
        return {
            "output": self._codec.encode(end.output) if stores else b"",
            "result": self._codec.encode(result.model_dump(include=_TOLD)),
            "context": self._codec.encode(end.context[1]) if end.context else b"",
            "context_form": end.context[0] if end.context else "",
            "data": json_bytes(data),
            "broker_list": self._broker_list(attempt.claim.queue),
        }

    def _refuse_output(self, attempt: Attempt, end: AttemptEnd, error: PayloadError) -> None:
        ref = attempt.ref
        end.error = PayloadError(f"Run {ref.run_id}, step '{attempt.task.step.name}' ({ref.path}): {error}")
        end.outcome, end.output, end.context, end.verdict, end.stores = "failed", None, None, {}, False
        assert end.result is not None
        end.result = end.result.model_copy(update={"success": False, "output": None, "feedback": str(end.error)})
