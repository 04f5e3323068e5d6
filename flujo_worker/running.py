"""`RunningAttempts`: what a process is running now, and how it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.replies import Claim
from flujo_worker.attempt import Attempt, AttemptEnd

__all__ = ["RunningAttempts", "stopped"]


class RunningAttempts:
    """The attempts of one event loop, each on a task of its own."""

    def __init__(self) -> None:
        self._running: dict[Claim, tuple[asyncio.Task[Any], Attempt]] = {}

    @contextmanager
    def entered(self, attempt: Attempt) -> Iterator[asyncio.Task[Any]]:
        """While an attempt runs, on the task that enters here."""
        task = asyncio.current_task()
        assert task is not None
        self._running[attempt.claim] = task, attempt
        try:
            yield task
        finally:
            del self._running[attempt.claim]

    def stop(self, claim: Claim, reason: str) -> None:
        """Cancel an attempt. Nothing happens if it does not run, or was told before."""
        task, attempt = self._running.get(claim, (None, None))
        if task is not None and attempt is not None and attempt.stop_reason is None:
            attempt.stop_reason = reason
            task.cancel()

    def terminate(self, ref: StepRef) -> None:
        """Cancel an attempt that somebody revoked: it fails, and is not tried again."""
        for claim, (_, attempt) in self._running.items():
            if attempt.ref == ref:
                self.stop(claim, "terminated")

    async def hand_over(self) -> None:
        """Cancel what is running so that other workers get it, and wait for it."""
        tasks = [task for task, _ in self._running.values()]
        for claim in list(self._running):
            self.stop(claim, "handed_over")
        if tasks:
            await asyncio.wait(tasks)


def stopped(attempt: Attempt, error: asyncio.CancelledError) -> AttemptEnd:
    """How an attempt ends that was cancelled: told to stop, or by awaiting something that was cancelled."""
    ref = attempt.ref
    if attempt.stop_reason == "handed_over":
        return AttemptEnd("handed_over")
    if attempt.stop_reason == "terminated":
        return AttemptEnd("failed", error=NonRetryableError(f"Run {ref.run_id} step {ref.path} was revoked."))
    if attempt.stop_reason is not None:
        ended = NonRetryableError(f"Run {ref.run_id} ended while the step was running.")
        return AttemptEnd("failed", error=ended)
    told = asyncio.CancelledError(*(error.args or ("the step cancelled itself, or awaited what was cancelled",)))
    return AttemptEnd("failed", error=told)
