"""Log lines that say which run: the facts of a record, which constant messages leave to `extra`, behind its message."""

from __future__ import annotations

import logging
import traceback
from typing import Any

__all__ = ["FactsFormatter"]

#: What every record has, and what Celery adds to those of its own.
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "task_id", "task_name"}


class FactsFormatter(logging.Formatter):
    """`broker not reached` becomes `broker not reached  run_id=order-42 path=1.0`.

    Args:
        text: As `logging.Formatter` takes it.
        private: Payloads are encrypted here, so that exceptions are logged without their texts, which may hold values.
    """

    def __init__(self, text: str, *, private: bool) -> None:
        super().__init__(text)
        self._private = private

    def formatException(self, ei: Any) -> str:
        """Where and what was raised; with its text unless that is private."""
        if not self._private:
            return super().formatException(ei)
        kind, _, trace = ei
        return "".join([*traceback.format_tb(trace), f"{kind.__name__}, whose text is private"])

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with the plain facts of the record behind it."""
        facts = {name: value for name, value in vars(record).items() if name not in _KNOWN}
        told = [f"{name}={value}" for name, value in facts.items() if isinstance(value, str | int | float)]
        return "  ".join([super().formatMessage(record), *([" ".join(told)] if told else [])])
