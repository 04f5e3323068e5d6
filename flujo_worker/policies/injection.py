"""What a step's function may ask for about its own attempt: `run`, and the settings of its model."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.step_run import StepRun, entered_step_run
from flujo_worker.policies.keeping import AttemptValues
from flujo_worker.policies.stack import Proceed, StepCall
from flujo_worker.policies.streaming import ChunkStream

__all__ = ["StepRunPolicy"]

logger = logging.getLogger(__name__)


class StepRunPolicy:
    """Offers `run`: the attempt itself, its meter and its stream; also to code that is not handed it, as `current_step_run()`.

    Args:
        scripts: By which chunks are emitted.
        codec: Of chunks.
        stream_max_bytes: Of chunks that a run keeps.
        strict_pricing: Usage that has no price is an error.
        live: The in-process mode.
    """

    def __init__(
        self, scripts: Scripts, codec: PayloadCodec, stream_max_bytes: int, *, strict_pricing: bool, live: bool
    ) -> None:
        self._most_bytes = stream_max_bytes
        self._live = live
        self._strict_pricing = strict_pricing
        self._scripts = scripts
        self._codec = codec

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`."""
        attempt = call.attempt
        ref, claim = attempt.ref, attempt.claim
        stream = ChunkStream(self._scripts, self._codec, claim, self._most_bytes, live=self._live)
        told = logging.LoggerAdapter(logger, attempt.ids)
        values = AttemptValues(self._scripts, self._codec, claim)
        run = StepRun(
            ref.run_id,
            ref.path,
            ref.attempt,
            claim.nonce,
            attempt.meter,
            values,
            stream.write,
            told,
            self._strict_pricing,
            call.step.accounts,
            self._scripts.hold_back_everywhere,
            asyncio.get_running_loop(),
        )
        call.injected |= {"run": run, **call.step.settings}
        try:
            with entered_step_run(run):
                return await proceed(call)
        finally:
            attempt.meter.close_calls()
            if attempt.stop_reason is None:
                await stream.flush()
