"""What the Celery task `flujo.submit` does: start a run for a client that has only Celery."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.errors import StateUnavailableError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.specs import SpecStore
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.wire import Wire

__all__ = ["submit_by_name", "submit_patiently"]

logger = logging.getLogger(__name__)

#: How long one delivery of a submission waits for Redis. A broker counts how often it delivers a message: RabbitMQ drops one
#: after some 20 times, if it is told nothing else.
_PATIENCE_S = 30.0

_RETRY_S = 1.0


async def submit_patiently(submit: Callable[[], Any], run_id: str, ending: Callable[[], bool]) -> str:
    """Submit until Redis answers, for a while: the message is all that there is of the run.

    Args:
        submit: Makes the call.
        run_id: For the log.
        ending: Whether the worker is about to end, so that another must take the message.

    Raises:
        StateUnavailableError: Redis does not answer; the message must go back to its queue.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return str(await submit())
        except StateUnavailableError as error:
            if ending() or time.monotonic() > until:
                raise
            logger.warning("submission not stored yet, trying again", extra={"run_id": run_id, "error": str(error)})
            await asyncio.sleep(_RETRY_S)


async def submit_by_name(
    settings: Settings, pipeline: str, value: Any, run_id: str, usage_limits: dict[str, Any] | None, traceparent: str
) -> str:
    """Start a run of a published pipeline, driven by the pool.

    Args:
        run_id: The task's id unless the caller gave one, so that a second delivery starts nothing new.
        usage_limits: As `UsageLimits` takes them.

    Returns:
        The run id.

    Raises:
        FlujoError: As `submission.submit_run` and `SpecStore.by_name`; the task fails with it and starts nothing.
    """
    wire = Wire(settings.state_url)
    try:
        scripts = Scripts(ScriptCaller(wire), Keyspace(settings.namespace))
        spec = await SpecStore(scripts).by_name(pipeline)
        limits = None if usage_limits is None else UsageLimits.model_validate(usage_limits)
        codec = JsonCodec(settings.max_payload_bytes)
        await submit_run(scripts, codec, spec, value, run_id=run_id, owner=POOL, limits=limits, traceparent=traceparent)
        return run_id
    finally:
        await wire.close()
