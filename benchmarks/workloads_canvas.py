"""The benchmark's work as Celery tasks for Celery's own canvas, with the settings that were found to be its best.

Workers find `app` by `celery -A workloads_canvas`; BENCH_BROKER and BENCH_BACKEND say where it is.
"""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery

__all__ = ["make_app"]


def make_app(broker: str, backend: str) -> Celery:
    """An app with the tasks `increment`, `sleep`, `rotate` and `join`.

    Args:
        broker: URL of a Redis database for the queue.
        backend: URL of a Redis database for the results.
    """
    app = Celery("canvas", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)
    for function in (increment, sleep, rotate, join):
        app.task(function, name=f"canvas.{function.__name__}")
    app.finalize()
    return app


def increment(number: int) -> int:
    """A step that does nothing worth measuring."""
    return number + 1


def sleep(number: int) -> int:
    """A step that waits 100 ms, as for an answer of a model."""
    time.sleep(0.1)
    return number


def rotate(text: str) -> str:
    """A step that passes on as much as it gets, but never the same."""
    return text[1:] + text[:1]


def join(parts: list[int]) -> int:
    """What follows the branches."""
    return len(parts)


def __getattr__(name: str) -> Any:
    """Make `app` when Celery's command line asks for it."""
    if name == "app":
        return make_app(os.environ["BENCH_BROKER"], os.environ["BENCH_BACKEND"])
    raise AttributeError(name)
