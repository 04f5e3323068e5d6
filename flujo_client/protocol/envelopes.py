"""The envelope of an error on the wire: what it is called, what it says, and its data; and the error again."""

from __future__ import annotations

import json
from typing import Any

import flujo_client.protocol.errors as errors
from flujo_client.protocol.errors import FlujoError, RunFailedError

__all__ = ["STEP_FAILED", "describe_error", "rebuild_error", "withhold_text"]

#: Code of the error of a run whose step failed: it is told, in the result and everywhere, and not raised.
STEP_FAILED = "step_failed"


def describe_error(error: BaseException, message: str | None = None) -> dict[str, Any]:
    """The JSON envelope of an error: `type`, `message`, and of a Flujo error its data, suggestion, code and cause.

    Args:
        message: Instead of the error's own text.
    """
    text = str(error) if message is None else message
    if not isinstance(error, FlujoError):
        return {"type": type(error).__name__, "message": text, "data": {}}
    envelope: dict[str, Any] = {"type": type(error).__name__, "message": text, "data": _plain(error.data)}
    more = {"suggestion": error.suggestion, "code": error.code, "cause": _cause(error.__cause__)}
    return envelope | {name: value for name, value in more.items() if value is not None}


def withhold_text(error: BaseException) -> dict[str, Any]:
    """The envelope of an error whose text may hold values that nobody may read without a key: only what it is called."""
    return {"type": type(error).__name__, "message": "its text is encrypted, as the feedback of its step", "data": {}}


def _cause(cause: BaseException | None) -> dict[str, Any] | None:
    """What led to an error, in its own words: user code may raise what has no valid text."""
    if cause is None:
        return None
    words = ", ".join(word for word in cause.args if isinstance(word, str))
    return {"type": type(cause).__name__, "message": words.encode("utf-8", "replace").decode(), "data": {}}


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Data as JSON values: user code may raise our errors with anything in them, and they must reach Redis all the same."""
    try:
        text = json.dumps(data, ensure_ascii=False, default=repr, skipkeys=True)
    except ValueError:  # it contains itself
        return {}
    return dict(json.loads(text.encode("utf-8", "replace")))


def rebuild_error(envelope: dict[str, Any]) -> FlujoError:
    """The Flujo error that an envelope describes, with its data; `RunFailedError` where its class is not one of ours."""
    cls, data = getattr(errors, envelope["type"], None), dict(envelope.get("data", {}))
    if not (isinstance(cls, type) and issubclass(cls, FlujoError)):
        cls, data = RunFailedError, {**data, "type": envelope["type"]}
    suggestion: str | None = envelope.get("suggestion")
    message = envelope["message"] if suggestion is None else envelope["message"].removesuffix(f" {suggestion}")
    cause = None if envelope.get("cause") is None else rebuild_error(envelope["cause"])
    return cls.rebuilt(message, suggestion, envelope.get("code"), data, cause)
