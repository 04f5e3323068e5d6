"""`EndingNotice`: how the processes of a pool hear that the worker is ending, while Celery still waits for their steps."""

from __future__ import annotations

import os
import select

__all__ = ["EndingNotice"]


class EndingNotice:
    """A pipe to whose writing end only the worker's main process holds on: when it lets go, every reader is woken.

    Made before the pool forks. Celery's own word, the end of a pool process' queue, is heard only after the last step.
    """

    def __init__(self) -> None:
        self._reading: int | None = None
        self._writing: int | None = None

    def open(self) -> None:
        """Called in the main process, before it forks."""
        self._reading, self._writing = os.pipe()

    def forked(self) -> None:
        """Called in a pool's process: only the main one shall hold the writing end."""
        self.give()

    def give(self) -> None:
        """Wake every reader. Nothing happens the second time."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    @property
    def given(self) -> bool:
        """Whether the worker is ending; False in a process that has not inherited the notice."""
        return self._reading is not None and bool(select.select([self._reading], [], [], 0)[0])

    @property
    def readable(self) -> int | None:
        """The file that becomes readable with the notice; None in a process that has not inherited it."""
        return self._reading
