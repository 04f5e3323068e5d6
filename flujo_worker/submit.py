"""What the Celery task `flujo.submit` does: start a run for a client that has only Celery."""

from __future__ import annotations

from typing import Any

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.specs import SpecStore
from flujo_client.protocol.submission import submit_run
from flujo_client.protocol.wire import Wire

__all__ = ["submit_by_name"]


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
