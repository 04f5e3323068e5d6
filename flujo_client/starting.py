"""Ctrl-C while the command line is still being imported, which takes a second: one line, not a traceback. Imported first."""

import sys
from pathlib import Path
from types import TracebackType

__all__ = ["is_command_line"]


def is_command_line(words: list[str]) -> bool:
    """Whether a process was started as `flujo` or `python -m flujo_client.cli`.

    Args:
        words: Of its command line.
    """
    return "flujo_client.cli" in words[1:3] or any(Path(word).stem == "flujo" for word in words[:2])


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("flujo: interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)


if is_command_line(sys.orig_argv):
    sys.excepthook = _tell
