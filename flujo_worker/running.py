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


#: What a body gets to end after it was cancelled, and its end to be committed.
_STOP_S = 5.0


class RunningAttempts:
    """The attempts of one event loop from their claim to their commit, each on a task of its own."""

    def __init__(self) -> None:
        self._running: dict[Claim, tuple[asyncio.Task[Any], Attempt]] = {}
        self._handing_over = False

    @contextmanager
    def entered(self, attempt: Attempt) -> Iterator[asyncio.Task[Any]]:
        """While an attempt is under way, on the task that enters here. Once all is handed over, it has nothing to do."""
        task = asyncio.current_task()
        assert task is not None
        self._running[attempt.claim] = task, attempt
        if self._handing_over:
            attempt.stop_reason = "handed_over"
        try:
            yield task
        finally:
            del self._running[attempt.claim]

    def stop(self, claim: Claim, reason: str) -> None:
        """Cancel an attempt. Nothing happens if it does not run, has ended and is being committed, or was told before."""
        task, attempt = self._running.get(claim, (None, None))
        if task is not None and attempt is not None and attempt.stop_reason is None and not attempt.settling:
            attempt.stop_reason = reason
            task.cancel()

    def terminate(self, ref: StepRef) -> None:
        """Cancel an attempt that somebody revoked: it fails, and is not tried again."""
        for claim, (_, attempt) in self._running.items():
            if attempt.ref == ref:
                self.stop(claim, "terminated")

    def besides(self, task: asyncio.Task[Any] | None) -> list[Attempt] | None:
        """Every attempt but the one that runs on a task; None if none does. Called while this loop stands still."""
        attempts = {owner: attempt for owner, attempt in self._running.values()}
        if task not in attempts:
            return None
        return [attempt for owner, attempt in attempts.items() if owner is not task]

    async def hand_over(self) -> list[Attempt]:
        """Cancel what can be stopped so that other workers get it, and wait for it, though not for ever.

        Returns:
            What cannot be stopped: sync bodies, which go on untold and may still end by themselves, and async ones that
            took no notice.
        """
        self._handing_over = True
        for claim, (_, attempt) in list(self._running.items()):
            if not attempt.in_thread:
                self.stop(claim, "handed_over")
        ending = [task for task, attempt in self._running.values() if not attempt.in_thread]
        if ending:
            await asyncio.wait(ending, timeout=_STOP_S)
        return [attempt for _, attempt in self._running.values() if not attempt.settling]


def stopped(attempt: Attempt, error: asyncio.CancelledError) -> AttemptEnd:
    """How an attempt ends that was cancelled: told to stop, or by awaiting something that was cancelled."""
    ref = attempt.ref
    if attempt.stop_reason == "handed_over":
        return AttemptEnd("handed_over")
    if attempt.stop_reason == "terminated":
        return AttemptEnd.failure(attempt, NonRetryableError(f"Run {ref.run_id} step {ref.path} was revoked."))
    if attempt.stop_reason is not None:
        ended = NonRetryableError(f"Run {ref.run_id} ended while the step was running.")
        return AttemptEnd.failure(attempt, ended)
    told = asyncio.CancelledError(*(error.args or ("the step cancelled itself, or awaited what was cancelled",)))
    return AttemptEnd.failure(attempt, told)
