"""What logs, events and remote control show of a submission: its message carries the run's input."""

from __future__ import annotations

from typing import Any

from celery.worker.request import Request

__all__ = ["SUBMIT_REQUEST", "SubmitRequest"]

#: How Celery finds `SubmitRequest`.
SUBMIT_REQUEST = "flujo_worker.request:SubmitRequest"


class SubmitRequest(Request):  # type: ignore[misc]  # celery has no types
    """A `flujo.submit` on its way: whoever sent it said in its headers what its arguments look like, the input among them."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        self._argsrepr = self._kwargsrepr = "not shown"

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `inspect active` and `reserved` answer, which Flower asks for: never the arguments themselves."""
        shown: dict[str, Any] = super().info(safe=True)
        return shown
