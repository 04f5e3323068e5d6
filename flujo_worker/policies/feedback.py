"""What a step's result says of an error."""

from __future__ import annotations

from traceback import TracebackException

from flujo_client.protocol.errors import FlujoError

__all__ = ["feedback_of", "text_of"]

#: Characters of an error's text that are committed.
_LONGEST_FEEDBACK = 20_000


def feedback_of(error: BaseException) -> str:
    """The feedback of a failure. Our own errors speak for themselves; for others it says what was raised."""
    if isinstance(error, FlujoError):
        return text_of(error)
    return f"Agent execution failed with {type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """What an error says, as text that can be committed: user code may raise what has none, or no valid one."""
    text = str(TracebackException(type(error), error, None, compact=True))
    return text[:_LONGEST_FEEDBACK].encode("utf-8", "replace").decode()
