"""`Intake`: from a message to a claimed attempt, or to the reason why there is none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from secrets import token_hex
from typing import Any

from flujo_client.protocol.errors import NonRetryableError, StateUnavailableError
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.quota import Amounts, Quota
from flujo_client.protocol.replies import Blocked, Claim, Delayed, Duplicate, LeaseLost, Refusal, Reserved, WorkerDead
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.step_run import UsageMeter
from flujo_worker.attempt import Attempt, AttemptEnd, read_task
from flujo_worker.lease import Incarnation
from flujo_worker.registry import Registry
from flujo_worker.telemetry import note_refusal

__all__ = ["Intake"]

logger = logging.getLogger(__name__)

#: How long a running attempt waits in its place at the most before it asks a named account again, ms; and where only others can
#: make room, there or in the run's own accounts.
_MOST_DELAY_MS = 5_000
_ASK_AGAIN_MS = 250


@dataclass(frozen=True, slots=True)
class Late:
    """The claim was answered when the lease that it gave was over, or may have been. The keeper gives back what is left of it."""


#: Most back-off of a step that this worker lacks, ms: a manager publishes only what somebody alive has.
_ELSEWHERE_MS = 500

_NOT_RESERVED: dict[type, str] = {
    Blocked: "blocked",
    Delayed: "delayed",
    Refusal: "refused",
    Duplicate: "duplicate",
    Late: "late",
}


class Intake:
    """Claims attempts.

    Args:
        scripts: On a connection of the coordinator's loop.
        registry: What may be run; looked at before anything is reserved.
        incarnation: Under which leases are held.
        stop_attempt: Tells an attempt to stop, by its claim; called on the loop.
        delayed: Told of each delay by a named account: its name, the meter, and ms until there is room, if that is known.
    """

    def __init__(
        self,
        scripts: Scripts,
        registry: Registry,
        incarnation: Incarnation,
        stop_attempt: Callable[[Claim, str], None],
        delayed: Callable[[str, str, int | None], None],
    ) -> None:
        self._scripts = scripts
        self._registry = registry
        self._incarnation = incarnation
        self._stop_attempt = stop_attempt
        self._delayed = delayed

    async def claim(self, ref: StepRef, queue: str) -> Attempt | AttemptEnd:
        """Claim an attempt and reserve what it may use; or say how it ended before it began.

        Raises:
            StateUnavailableError: Redis did not answer before anything was claimed; the journal brings the step back.
        """
        if not self._registry.has(ref.function):
            return await self._decline(ref, queue)
        while True:
            claim = Claim(ref.run_id, ref.path, ref.attempt, token_hex(16), self._incarnation.id, queue)
            answer = await self._reserve(claim, ref.owner)
            if not isinstance(answer, WorkerDead):
                break
            await self._rename(claim)
        if isinstance(answer, Reserved):
            task, fault = read_task(ref, answer.task)
            meter = self._meter(claim, answer, task.step.estimate)
            leased = partial(self._incarnation.holds, claim)
            return Attempt(ref, claim, answer, task, fault, meter, self._registry.find(ref.function), leased)
        outcome = next((name for kind, name in _NOT_RESERVED.items() if isinstance(answer, kind)), "inactive")
        told: dict[str, Any] = {"run_id": ref.run_id, "path": ref.path, "attempt": ref.attempt, "outcome": outcome}
        if isinstance(answer, Delayed):
            told |= asdict(answer)
            self._delayed(answer.account, answer.meter, answer.wait_ms)
        logger.info("attempt not reserved", extra=told)
        return AttemptEnd(outcome)

    async def _reserve(self, claim: Claim, owner: str) -> object:
        """Claim an attempt. The incarnation holds what it may have claimed, and what it has until that is settled."""
        loop = asyncio.get_running_loop()

        def stop(reason: str) -> None:
            loop.call_soon_threadsafe(self._stop_attempt, claim, reason)

        self._incarnation.hold(claim, stop)
        reserved = None
        try:
            answer = await self._scripts.reserve(claim, owner)
            # A process that was stopped meanwhile may have lost the lease: it must not begin what others run by now.
            reserved = Late() if isinstance(answer, Reserved) and not self._incarnation.holds(claim) else answer
        finally:
            if not isinstance(reserved, Reserved):
                self._incarnation.release(claim)  # if Redis booked it all the same, the keeper gives it back
        return reserved

    async def _rename(self, claim: Claim) -> None:
        """Go on under a new name after this one was buried; one for all who find out."""
        self._incarnation.renamed(claim.incarnation)
        name, asked = self._incarnation.id, self._incarnation.clock()
        for shard in range(self._scripts.keyspace.shards):  # it leases on any of them
            await self._scripts.register("incarnations", name, self._incarnation.ttl_ms, shard)
        self._incarnation.leased(name, asked)

    async def _decline(self, ref: StepRef, queue: str) -> AttemptEnd:
        member = f"{ref.run_id} {ref.path} {ref.attempt} {queue}"
        delay_ms = await self._scripts.decline(member, ref.path, ref.attempt, ref.label, _ELSEWHERE_MS)
        logger.warning(
            "this worker has no such step, the run waits for one that has it",
            extra={"run_id": ref.run_id, "path": ref.path, "function": ref.function, "delay_ms": delay_ms},
        )
        return AttemptEnd("not_here")

    def _meter(self, claim: Claim, reserved: Reserved, estimate: Amounts) -> UsageMeter:
        """What the attempt may use: its estimate, which is reserved, and what its account has left."""
        counter, turns = iter(range(1, 2**31)), asyncio.Lock()

        async def ask(amounts: Amounts) -> Refusal | LeaseLost | None:
            number, began, told = next(counter), asyncio.get_running_loop().time(), False
            while True:
                waited_ms = round((asyncio.get_running_loop().time() - began) * 1000)
                answer = await self._scripts.extend(claim, reserved.owner, number, amounts, waited_ms)
                if not isinstance(answer, Blocked | Delayed):
                    return answer
                wait_ms = answer.wait_ms if isinstance(answer, Delayed) else None
                if isinstance(answer, Delayed) and not told:  # counted once, however often it asks
                    self._delayed(answer.account, answer.meter, wait_ms)
                    told = True
                await asyncio.sleep(min(wait_ms or _ASK_AGAIN_MS, _MOST_DELAY_MS) / 1000)

        async def extend(amounts: Amounts) -> dict[str, Any] | None:
            async with turns:  # one counter after the other: a lower one would pass for granted
                try:
                    answer = await ask(amounts)  # until there is room, or the step times out
                except asyncio.CancelledError:  # it waits for nothing any more
                    with suppress(StateUnavailableError):  # then its commit says so
                        await self._scripts.extend(claim, reserved.owner, next(counter), {})
                    raise
            if isinstance(answer, Refusal):
                refused = asdict(answer)
                note_refusal(refused)
                return {**refused, "run_id": claim.run_id, "path": claim.path}
            if answer is not None:
                raise NonRetryableError(f"The lease of run {claim.run_id} step {claim.path} is lost.")
            return None

        left = {meter: amount + estimate.get(meter, 0) for meter, amount in reserved.remaining.items()}
        return UsageMeter(Quota.of(left), dict(estimate), extend)
