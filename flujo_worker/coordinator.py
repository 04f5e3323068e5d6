"""`StepCoordinator`: takes one attempt from its message to its commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.trace import Status, StatusCode

from flujo_client.protocol.errors import (
    ControlFlowError,
    PausedException,
    PipelineAbortSignal,
    QuotaExceededError,
    StateUnavailableError,
)
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.metrics import StepMetrics
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.queues import broker_queue
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.results import (
    HookPayload,
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    PostStepPayload,
    StepResult,
)
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.types import TypeValidator
from flujo_worker.attempt import Attempt, AttemptEnd
from flujo_worker.bodies import SyncBodies
from flujo_worker.committer import Committer
from flujo_worker.intake import Intake
from flujo_worker.lease import Incarnation
from flujo_worker.policies.agent import AgentCall
from flujo_worker.policies.announcing import PreStepHookPolicy
from flujo_worker.policies.calling import UserCalls
from flujo_worker.policies.composites import ControlSteps
from flujo_worker.policies.context import ContextPolicy
from flujo_worker.policies.earlier_outputs import EarlierOutputs, ReadNow
from flujo_worker.policies.feedback import feedback_of
from flujo_worker.policies.granular import GranularPolicy
from flujo_worker.policies.hitl import paused_attempt
from flujo_worker.policies.injection import StepRunPolicy
from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.invariants import InvariantPolicy
from flujo_worker.policies.plugins import PluginPolicy
from flujo_worker.policies.pointers import ReferencePolicy
from flujo_worker.policies.processors import OutputProcessorPolicy, PromptProcessorPolicy
from flujo_worker.policies.resources import ResourcesPolicy
from flujo_worker.policies.stack import Always, Proceed, SelectivePolicy, StepCall, stacked
from flujo_worker.policies.store import ControlStore
from flujo_worker.policies.timeout import TimeoutPolicy
from flujo_worker.policies.usage import UsagePolicy
from flujo_worker.policies.validators import ValidatorPolicy
from flujo_worker.policies.values import InputPolicy, OutputPolicy
from flujo_worker.registry import Registry
from flujo_worker.running import RunningAttempts, stopped
from flujo_worker.telemetry import note_usage, process_span

__all__ = ["StepCoordinator"]

logger = logging.getLogger(__name__)


class StepCoordinator:
    """Runs steps. One per process; any number of attempts at once, all on one event loop.

    Args:
        scripts: On a connection of this loop.
        registry: What may be run.
        codec: Of the payloads.
        incarnation: Under which leases are held.
        namespace: Of the queues' names, for spans.
        hooks: Called beside the step.
        bodies: Runs sync functions.
        live: The in-process mode: values are live objects and sync steps run on the loop.
        strict_pricing: An agent's tokens without a price fail the run.
        stream_max_bytes: Of chunks that a run keeps.
        messaging_system: The broker, for spans and metrics.
        broker_holds_runs: Commits may publish what was decided ahead of them.
        read_now: Reads hashes of the runs for code that cannot await it.
    """

    def __init__(
        self,
        scripts: Scripts,
        registry: Registry,
        codec: PayloadCodec,
        incarnation: Incarnation,
        *,
        namespace: str,
        hooks: HookDispatcher,
        bodies: SyncBodies,
        read_now: ReadNow,
        live: bool = False,
        strict_pricing: bool = False,
        stream_max_bytes: int = 64 * 2**20,
        messaging_system: str = "memory",
        broker_holds_runs: bool = False,
    ) -> None:
        self._scripts = scripts
        self._registry = registry
        self._codec = codec
        self._incarnation = incarnation
        self._namespace = namespace
        self._hooks = hooks
        self._bodies = bodies
        self._live = live
        self._stream_max_bytes = stream_max_bytes
        self._running = RunningAttempts()
        self._metrics = StepMetrics(messaging_system)
        self._intake = Intake(scripts, registry, incarnation, self._running.stop, self._metrics.delayed)
        self._committer = Committer(scripts, codec, partial(broker_queue, namespace) if broker_holds_runs else _nowhere)
        self._system = messaging_system
        validator = TypeValidator()
        reader = InputReader(codec, validator, registry.find, EarlierOutputs(scripts.keyspace, read_now))
        self._call_step = self._build_policy_stack(reader, validator, strict_pricing=strict_pricing)
        self._controls = ControlSteps(reader, registry, bodies, partial(ControlStore, scripts, codec), live=live)

    def _build_policy_stack(self, reader: InputReader, validator: TypeValidator, *, strict_pricing: bool) -> Proceed:
        """The way of a step: from top to bottom into the user's function, and back from bottom to top."""
        calls = UserCalls(self._bodies, live=self._live)
        policies: list[SelectivePolicy] = [
            InvariantPolicy(calls, self._registry),
            ContextPolicy(reader, self._registry),
            ReferencePolicy(self._registry),
            Always(InputPolicy(reader, validator)),
            ResourcesPolicy(self._registry),
            Always(
                StepRunPolicy(
                    self._scripts, self._codec, self._stream_max_bytes, strict_pricing=strict_pricing, live=self._live
                )
            ),
            Always(PreStepHookPolicy(self._dispatch_hook)),
            TimeoutPolicy(),
            ValidatorPolicy(calls),
            PluginPolicy(calls),
            OutputProcessorPolicy(calls),
            Always(OutputPolicy(validator)),
            GranularPolicy(),
            Always(UsagePolicy(strict=strict_pricing)),
            PromptProcessorPolicy(calls),
            *map(Always, self._registry.policies),
        ]
        return stacked(policies, AgentCall(self._bodies, live=self._live))

    async def execute_step(self, ref: StepRef, queue: str, traceparent: str = "", *, alone: bool = True) -> AttemptEnd:
        """Claim an attempt, run it and commit its outcome. A second delivery of the same message finds it taken.

        Args:
            ref: The attempt.
            queue: Whose message it came in.
            traceparent: Of the message.
            alone: Whether the message carries only this attempt.

        Raises:
            StateUnavailableError: Redis did not answer before anything was claimed; the journal brings the step back.
        """
        attempt = await self._intake.claim(ref, queue)
        if isinstance(attempt, AttemptEnd):
            return attempt
        broker_name = broker_queue(self._namespace, queue)
        run_traceparent = attempt.reserved.traceparent
        with process_span(ref, broker_name, traceparent, run_traceparent, alone=alone, system=self._system) as span:
            end = await self._run_and_commit(attempt)
            span.set_attribute("flujo.step.outcome", end.outcome)
            if end.usage:
                note_usage(span, end.usage)
            if end.error is not None:
                span.set_status(Status(StatusCode.ERROR, type(end.error).__name__))
        self._metrics.record(broker_name, ref.label, end.outcome, time.monotonic() - attempt.started, end.usage)
        return end

    async def hand_over(self) -> bool:
        """Cancel what is running, wait for it, and give its leases to other workers. Called when the grace is over.

        Returns:
            Whether nothing runs any more. If not, the process must end: it keeps the leases of what it cannot stop, so that
            no other worker runs the same body meanwhile, and has noted that it leaves them.
        """
        left = await self._running.hand_over()
        for attempt in left:
            logger.warning("a body cannot be stopped, the process leaves with it", extra=attempt.ids)
            try:
                await self._scripts.leave(attempt.claim, attempt.used)
            except StateUnavailableError as error:  # then its end counts as the death of a worker
                logger.warning("leaving was not noted", extra={**attempt.ids, "error": str(error)})
        return not left

    def besides(self, task: asyncio.Task[Any] | None) -> list[Attempt] | None:
        """See `RunningAttempts.besides`."""
        return self._running.besides(task)

    def terminate(self, ref: StepRef) -> None:
        """End an attempt that somebody revoked: it fails, and is not tried again. Nothing happens if it does not run."""
        self._running.terminate(ref)

    async def _run_and_commit(self, attempt: Attempt) -> AttemptEnd:
        with self._running.entered(attempt) as this_task:
            end = await self._run_guarded(attempt, this_task)
            self._settle_quota(attempt, end)
            await self._committer.commit(attempt, end)
        self._incarnation.release(attempt.claim)  # not in a finally: what breaks off before stays leased, and counts
        await self._tell_hooks(attempt, end)
        return end

    async def _run_guarded(self, attempt: Attempt, this_task: asyncio.Task[Any]) -> AttemptEnd:
        """Run an attempt and measure what it used. Whatever is raised on the way is how it ended.

        Raises:
            CancelledError: In process, the caller's loop ends. On a worker nobody cancels an attempt without a reason.
        """
        try:
            end = await self._run(attempt)
            self.update_pipeline_result(attempt, end)
            return end
        except asyncio.CancelledError as error:
            if self._live and attempt.stop_reason is None and this_task.cancelling():
                raise
            while this_task.cancelling():
                this_task.uncancel()
            end = stopped(attempt, error)
        except PipelineAbortSignal as signal:
            end = AttemptEnd("aborted", error=signal)
        except Exception as error:
            logger.info("attempt failed", exc_info=True, extra=attempt.ids)
            end = AttemptEnd.failure(attempt, error)
        except SystemExit as error:
            end = AttemptEnd.failure(attempt, error)
        finally:
            attempt.settling = True
        self.update_pipeline_result(attempt, end)
        return end

    async def _run(self, attempt: Attempt) -> AttemptEnd:
        if attempt.stop_reason == "handed_over":  # claimed while everything else was handed over
            return AttemptEnd("handed_over")
        if attempt.fault is not None:
            return AttemptEnd.failure(attempt, attempt.fault)
        if attempt.definition is None:
            attempt.begin()
            return await self._controls.run(attempt)
        call = StepCall(attempt, attempt.definition)
        try:
            output = await self._call_step(call)
        except PausedException as pause:
            return paused_attempt(pause.message, call.context)
        return AttemptEnd("succeeded", output=output, context=call.context.change() if call.context else None)

    def update_pipeline_result(self, attempt: Attempt, end: AttemptEnd) -> StepResult:
        """Fold how an attempt ended, and what a nested run used, into the result that is committed with it."""
        end.usage = {} if attempt.task.control else attempt.used
        feedback = None if end.error is None else feedback_of(end.error)
        end.result = StepResult(
            name=attempt.task.step.name,
            output=end.output,
            success=end.outcome == "succeeded",
            attempts=attempt.ref.attempt,
            latency_s=time.monotonic() - attempt.started,
            token_counts=end.usage.get(TOKENS, 0),
            cost_usd=to_usd(end.usage.get(COST, 0)),
            feedback=feedback,
            metadata_=attempt.metadata,
        )
        return end.result

    def _settle_quota(self, attempt: Attempt, end: AttemptEnd) -> None:
        """Settle what this process holds of the budget; commit.lua settles the accounts."""
        quota, estimate = attempt.meter.quota, attempt.task.step.estimate
        if not end.usage:
            quota.refund(estimate)
            return
        try:
            quota.reclaim(estimate, end.usage)
        except QuotaExceededError as error:
            logger.warning(
                "an attempt used more than its budget had",
                extra={**attempt.ids, "error": str(error)},
            )

    async def _tell_hooks(self, attempt: Attempt, end: AttemptEnd) -> None:
        if end.outcome in ("lost", "handed_over"):
            return
        try:
            await self._dispatch_hook(lambda: _told(attempt, end))
        except PipelineAbortSignal as signal:
            await self._committer.abort(attempt, signal.message or type(signal).__name__)
        except ControlFlowError:
            logger.exception("a hook failed after the commit; the outcome stands", extra=attempt.ids)

    async def _dispatch_hook(self, payload: Callable[[], HookPayload]) -> None:
        """Call the hooks of this worker's registry; what they are told is only made where there are some."""
        if self._hooks:
            await self._hooks.dispatch(payload())


def _nowhere(queue: str) -> str:
    """Where a script cannot publish."""
    return ""


def _told(attempt: Attempt, end: AttemptEnd) -> HookPayload:
    """What hooks are told of an end."""
    assert end.result is not None
    ids: dict[str, Any] = {"run_id": attempt.ref.run_id, "path": attempt.ref.path}
    if end.outcome == "paused":
        return OnPauseRequestedPayload(**ids, step_name=end.result.name, pause_message=end.verdict["message"])
    kind = PostStepPayload if end.outcome == "succeeded" else OnStepFailurePayload
    return kind(**ids, step_result=end.result)
