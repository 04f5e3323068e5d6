"""Pipelines whose module makes its worker deaf once a file is there: its consumer never asks the broker again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flujo_client import Pipeline, step
from flujo_worker.transport import GuardedChannel

_start = GuardedChannel._brpop_start


def _start_unless_deaf(channel: Any, *args: Any, **options: Any) -> None:
    if Path(os.environ["TEST_DEAF"]).exists():
        channel._in_poll = channel.client.connection  # kombu believes that it waits
        return
    _start(channel, *args, **options)


GuardedChannel._brpop_start = _start_unless_deaf


@step
async def listen(word: str) -> str:
    return word


listening = Pipeline([listen], name="listening")
