"""Failpoints: places between two effects where a test lets a process die, as a machine might.

Every script, publication, message taken and call of user code has a place before and after it. `FLUJO_FAILPOINT` names
one, and it is read here and nowhere else:

* `after:commit` dies, by SIGKILL, when that place is passed; `after:commit#3` when it is passed for the third time.
* `trace:FILE` appends the name of each place when it is passed first, to show which ones a process comes by.

Unset, which it is but in tests of faults, a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["Failpoint", "failpoint"]


class Failpoint:
    """What happens at the places that a process passes.

    Args:
        text: Of the variable.
        die: Ends the process.
    """

    def __init__(self, text: str, die: Callable[[], None]) -> None:
        kind, _, rest = text.partition(":")
        self._trace = Path(rest) if kind == "trace" else None
        self._place, _, times = text.partition("#")
        self._times = int(times or 1)
        self._die = die
        self._passed: Counter[str] = Counter()

    def passed(self, place: str) -> None:
        """Note that a place was passed, and die if it is the one."""
        self._passed[place] += 1
        if self._trace is not None and self._passed[place] == 1:
            with self._trace.open("a") as names:
                names.write(f"{place}\n")
        if place == self._place and self._passed[place] == self._times:
            self._die()


def _armed(text: str) -> Failpoint | None:
    return Failpoint(text, lambda: os.kill(os.getpid(), signal.SIGKILL)) if text else None


_ARMED: Final = _armed(os.environ.get("FLUJO_FAILPOINT", ""))


def failpoint(moment: str, effect: str) -> None:
    """Pass the place before or after an effect.

    Args:
        moment: `before` or `after`.
        effect: A script's name, `publish`, `message`, `body` (a step's function), `control` (a composite's), or what a plain write
            of the sweep is for.
    """
    if _ARMED is not None:
        _ARMED.passed(f"{moment}:{effect}")
