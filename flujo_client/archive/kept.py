"""`KeptStates`: what a backend has of the runs that this process drives; replaced only while it is still that."""

from __future__ import annotations

from uuid import uuid4

from flujo_client.archive.backend import Document, StateBackend
from flujo_client.protocol.errors import ResumeError, StateUnavailableError

__all__ = ["KeptStates"]

#: States of one run that the backend may have, after so many writes of which nobody knows whether they came through.
_MOST_UNSURE = 8


class KeptStates:
    """Replaces states in a backend, each by one of the processes that know it.

    Args:
        backend: Where they are; one that cannot swap states replaces whatever it has.
    """

    def __init__(self, backend: StateBackend) -> None:
        self._backend = backend
        self._kept: dict[str, list[Document]] = {}

    def note(self, run_id: str, state: Document) -> None:
        """The backend has this state of a run, which goes on here."""
        self._kept[run_id] = [state]

    def forget(self, run_id: str) -> None:
        """A run does not go on here."""
        self._kept.pop(run_id, None)

    def is_paused(self, run_id: str) -> bool:
        """Whether the backend certainly has a run as one that waits for an answer."""
        return [state["status"] for state in self._kept.get(run_id, ())] == ["paused"]

    async def claim(self, run_id: str, found: Document) -> None:
        """Take over a run that the backend has as running: whoever drove it, or would as well, finds another state there.

        Raises:
            ResumeError: Another process was first.
            StateUnavailableError: The backend does not answer; call again.
        """
        claimed = {**found, "metadata": {**found["metadata"], "claim": uuid4().hex}}
        try:
            if not await self._backend.swap_state(run_id, found, claimed):
                raise _refused(run_id, "another process goes on with it")
        except NotImplementedError:
            claimed = found
        self.note(run_id, claimed)

    async def replace(self, run_id: str, state: Document) -> None:
        """Keep a state of a run in the place of the one before it.

        Raises:
            ResumeError: Another process has replaced that one: the run does not go on here.
            StateUnavailableError: The backend does not answer, and has the state or not: the next one replaces either.
        """
        before = self._kept.get(run_id, [])
        try:
            if not before:
                await self._backend.save_state(run_id, state)
            elif not await self._swaps(run_id, before, state):
                late = "the answer came too late, another process was first"
                raise _refused(run_id, late if self.is_paused(run_id) else "another process goes on with it")
        except StateUnavailableError:
            if before:
                self._kept[run_id] = [*before, state][-_MOST_UNSURE:]
            raise
        self.note(run_id, state)

    async def _swaps(self, run_id: str, before: list[Document], state: Document) -> bool:
        try:
            for known in reversed(before):
                if await self._backend.swap_state(run_id, known, state):
                    return True
        except NotImplementedError:
            await self._backend.save_state(run_id, state)
            return True
        return False


def _refused(run_id: str, reason: str) -> ResumeError:
    return ResumeError(f"Run {run_id}: {reason}.", suggestion="Ask for the run by its run_id.", run_id=run_id)
