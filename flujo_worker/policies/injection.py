"""What a step's function may ask for besides its input: `resources` and `run`."""

from __future__ import annotations

import logging
from typing import Any

from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.step_run import StepRun
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.registry import Registry

__all__ = ["ResourcesPolicy", "StepRunPolicy"]

logger = logging.getLogger(__name__)


class ResourcesPolicy:
    """Offers the worker's resources.

    Args:
        registry: Which has them.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`."""
        call.injected["resources"] = self._registry.resources
        return await proceed(call)


class StepRunPolicy:
    """Offers `run`: the attempt itself, its meter and its stream.

    Args:
        scripts: By which chunks are emitted.
        codec: Of chunks.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec) -> None:
        self._scripts = scripts
        self._codec = codec

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`."""
        attempt = call.attempt
        ref, claim, sequence = attempt.ref, attempt.claim, iter(range(1, 2**31))

        async def emit(chunk: Any) -> None:
            await self._scripts.emit(claim, next(sequence), self._codec.encode(chunk))

        told = logging.LoggerAdapter(logger, attempt.ids)
        call.injected["run"] = StepRun(ref.run_id, ref.path, ref.attempt, claim.nonce, attempt.meter, emit, told)
        return await proceed(call)
