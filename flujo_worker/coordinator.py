"""`StepCoordinator`: takes one attempt from its message to its commit."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any
from uuid import uuid4

from opentelemetry.trace import Status, StatusCode
from pydantic import BaseModel

from flujo_client.protocol.context import snapshot_of
from flujo_client.protocol.errors import FlujoError, NonRetryableError, QuotaExceededError
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.queues import broker_queue
from flujo_client.protocol.quota import COST, TOKENS, Amounts, Quota, to_usd
from flujo_client.protocol.replies import Claim, Refusal, Reserved, WorkerDead
from flujo_client.protocol.results import (
    HookPayload,
    OnStepFailurePayload,
    PostStepPayload,
    PreStepPayload,
    StepResult,
)
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.step_run import StepRun, UsageMeter
from flujo_client.protocol.types import StepDefinition, TypeValidator
from flujo_worker.attempt import Attempt, AttemptEnd, read_task
from flujo_worker.committer import Committer
from flujo_worker.lease import Incarnation
from flujo_worker.policies.agent import call_agent
from flujo_worker.policies.control import ControlCall
from flujo_worker.policies.inputs import AttemptInputs
from flujo_worker.policies.table import CONTROLS
from flujo_worker.policies.usage import measure_usage
from flujo_worker.registry import Registry
from flujo_worker.telemetry import StepMetrics, process_span

__all__ = ["StepCoordinator"]

logger = logging.getLogger(__name__)

#: Characters of an error's text that are committed.
_LONGEST_FEEDBACK = 20_000


class StepCoordinator:
    """Runs steps. One per process; any number of attempts at once, all on one event loop.

    Args:
        scripts: On a connection of this loop.
        registry: What may be run.
        codec: Of the payloads.
        incarnation: Under which leases are held.
        namespace: Of the queues' names, for spans.
        hooks: Called beside the step.
        live: The in-process mode: values are live objects and sync steps run on the loop.
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
        live: bool = False,
    ) -> None:
        self._scripts = scripts
        self._registry = registry
        self._codec = codec
        self._incarnation = incarnation
        self._namespace = namespace
        self._hooks = hooks
        self._live = live
        self._committer = Committer(scripts, codec)
        self._validator = TypeValidator()
        self._metrics = StepMetrics()
        self._running: dict[asyncio.Task[Any], Attempt] = {}

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
        if not self._registry.has(ref.function):
            return await self._decline(ref, queue)
        definition = self._registry.find(ref.function)
        claim = Claim(ref.run_id, ref.path, ref.attempt, uuid4().hex, self._incarnation.id, queue)
        reserved = await self._reserve(claim, ref.owner)
        if not isinstance(reserved, Reserved):
            return await self._not_reserved(reserved, claim, ref, traceparent, alone)
        task, fault = read_task(ref, reserved.task)
        attempt = Attempt(ref, claim, reserved, task, fault, self._meter(claim, reserved, task.step.estimate))
        broker_name = broker_queue(self._namespace, queue)
        with process_span(ref, broker_name, traceparent, task.traceparent, alone=alone) as span:
            end = await self._run_and_commit(attempt, definition)
            span.set_attribute("flujo.step.outcome", end.outcome)
            if end.error is not None:
                span.set_status(Status(StatusCode.ERROR, type(end.error).__name__))
        labels = {"flujo.step.label": ref.label, "flujo.step.outcome": end.outcome}
        self._metrics.duration.record(time.monotonic() - attempt.started, labels)
        self._metrics.outcomes.add(1, labels)
        for meter, amount in end.usage.items():
            self._metrics.usage.add(amount, {"flujo.step.label": ref.label, "flujo.meter": meter})
        return end

    async def _reserve(self, claim: Claim, owner: str) -> Any:
        """Claim an attempt. The incarnation holds what it may have claimed, and what it has until that is settled."""
        this_task = asyncio.current_task()
        assert this_task is not None
        loop = asyncio.get_running_loop()

        def stop(reason: str) -> None:
            loop.call_soon_threadsafe(self._stop_attempt, this_task, reason)

        self._incarnation.hold(claim, stop)
        reserved = None
        try:
            reserved = await self._scripts.reserve(claim, owner)
        finally:
            if not isinstance(reserved, Reserved):
                self._incarnation.release(claim)  # if Redis booked it all the same, the keeper gives it back
        return reserved

    async def hand_over(self) -> None:
        """Cancel what is running, wait for it, and give its leases to other workers. Called when the grace is over."""
        tasks = list(self._running)
        for task in tasks:
            self._stop_attempt(task, "handed_over")
        if tasks:
            await asyncio.wait(tasks)

    def terminate(self, ref: StepRef) -> None:
        """End an attempt that somebody revoked: it fails, and is not tried again. Nothing happens if it does not run."""
        for task, attempt in self._running.items():
            if attempt.ref == ref:
                self._stop_attempt(task, "terminated")

    def _stop_attempt(self, task: asyncio.Task[Any], reason: str) -> None:
        attempt = self._running.get(task)
        if attempt is not None and attempt.stop_reason is None:
            attempt.stop_reason = reason
            task.cancel()

    async def _decline(self, ref: StepRef, queue: str) -> AttemptEnd:
        member = f"{ref.run_id} {ref.path} {ref.attempt} {queue}"
        delay_ms = await self._scripts.decline(member, ref.path, ref.attempt, ref.label)
        logger.warning(
            "this worker has no such step, the run waits for one that has it",
            extra={"run_id": ref.run_id, "path": ref.path, "function": ref.function, "delay_ms": delay_ms},
        )
        return AttemptEnd("not_here")

    async def _not_reserved(self, answer: Any, claim: Claim, ref: StepRef, traceparent: str, alone: bool) -> AttemptEnd:
        if isinstance(answer, WorkerDead):  # buried: go on under a new name, one for all who find out
            self._incarnation.renamed(claim.incarnation)
            await self._scripts.register(
                "incarnations", self._incarnation.id, 2_500, self._scripts.keyspace.shard_of(ref.run_id)
            )
            return await self.execute_step(ref, claim.queue, traceparent, alone=alone)
        outcome = (
            "refused"
            if isinstance(answer, Refusal)
            else "duplicate"
            if type(answer).__name__ == "Duplicate"
            else "inactive"
        )
        logger.info(
            "attempt not reserved",
            extra={"run_id": ref.run_id, "path": ref.path, "attempt": ref.attempt, "outcome": outcome},
        )
        return AttemptEnd(outcome)

    def _meter(self, claim: Claim, reserved: Reserved, estimate: Amounts) -> UsageMeter:
        left = {meter: amount + estimate.get(meter, 0) for meter, amount in reserved.remaining.items()}
        quota = Quota.of(left)
        counter = iter(range(1, 2**31))

        async def extend(amounts: Amounts) -> str | None:
            answer = await self._scripts.extend(claim, next(counter), amounts)
            if isinstance(answer, Refusal):
                return answer.meter
            if answer is not None:
                raise NonRetryableError(f"The lease of run {claim.run_id} step {claim.path} is lost.")
            return None

        return UsageMeter(quota, dict(estimate), extend)

    async def _run_and_commit(self, attempt: Attempt, definition: StepDefinition | None) -> AttemptEnd:
        end = await self._run_guarded(attempt, definition)
        self._settle_quota(attempt, end)
        await self._committer.commit(attempt, end)
        self._incarnation.release(attempt.claim)  # not in a finally: what breaks off before stays leased, and counts
        await self._tell_hooks(attempt, end)
        return end

    async def _run_guarded(self, attempt: Attempt, definition: StepDefinition | None) -> AttemptEnd:
        """Run an attempt and measure what it used. Whatever is raised on the way is how it ended.

        Raises:
            CancelledError: In process, the caller's loop ends. On a worker nobody cancels an attempt without a reason.
        """
        this_task = asyncio.current_task()
        assert this_task is not None
        self._running[this_task] = attempt
        quota_before = attempt.meter.quota.get_remaining()
        attempt.meter.quota.reserve(attempt.task.step.estimate)
        try:
            if attempt.fault is not None:
                end = AttemptEnd("failed", error=attempt.fault)
            elif definition is None:
                end = await self._run_control(attempt)
            else:
                end = await self._run(attempt, definition, quota_before)
            self.update_pipeline_result(attempt, end)
            return end
        except asyncio.CancelledError as error:
            if self._live and attempt.stop_reason is None and this_task.cancelling():
                raise
            while this_task.cancelling():
                this_task.uncancel()
            end = _stopped(attempt, error)
        except Exception as error:
            logger.info("attempt failed", exc_info=True, extra=attempt.ids)
            end = AttemptEnd("failed", error=error)
        except SystemExit as error:
            end = AttemptEnd("failed", error=error)
        finally:
            self._running.pop(this_task, None)
        self.update_pipeline_result(attempt, end)
        return end

    async def _run(self, attempt: Attempt, definition: StepDefinition, quota_before: tuple[float, int]) -> AttemptEnd:
        task, ref = attempt.task, attempt.ref
        inputs = self._inputs(attempt)
        value = inputs.for_step(definition)
        context = None
        if task.step.uses_context or task.step.updates_context or task.step.sink_to is not None:
            context = inputs.context(self._context_model(definition.context_type), ref.run_id)
        await self._dispatch_hook(
            PreStepPayload(
                run_id=ref.run_id,
                path=ref.path,
                step=definition,
                step_input=value,
                attempt_number=ref.attempt,
                context=context.model if context else None,
                resources=self._registry.resources,
                quota_before_usd=quota_before[0],
                quota_before_tokens=quota_before[1],
            )
        )
        injectable = {
            "context": context.model if context else None,
            "resources": self._registry.resources,
            "run": self._step_run(attempt),
        }
        timeout_s = task.step.timeout_ms / 1000 if task.step.timeout_ms else None
        output = await call_agent(definition, value, injectable, timeout_s, live=self._live)
        self._validator.check_own_output(definition, output)
        if context is not None:
            context.apply(task.step, output)
        return AttemptEnd("succeeded", output=output, context=context.change() if context else None)

    async def _run_control(self, attempt: Attempt) -> AttemptEnd:
        """Run a composite's own functions."""
        task = attempt.task
        functions = {role: self._registry.control(reference) for role, reference in task.roles.items()}
        first = next(iter(functions.values()), None)
        inputs = self._inputs(attempt)
        context = inputs.context(self._context_model(first.context_type if first else Any), attempt.ref.run_id)
        call = ControlCall(
            task=task,
            value=inputs.for_control(first.input_type if first else Any),
            context=context.model,
            base=inputs.context_data(task.context),
            branches={branch: inputs.context_data(names) for branch, names in task.branches.items()},
            functions=functions,
            live=self._live,
        )
        end = await CONTROLS[task.kind, task.control](call)
        change = context.change() if end.context is None else ("snapshot", snapshot_of(end.context))
        output = end.outputs[0] if end.outputs else None
        return AttemptEnd("succeeded", output, context=change, verdict=end.verdict, stores=bool(end.outputs))

    def _inputs(self, attempt: Attempt) -> AttemptInputs:
        return AttemptInputs(attempt.task, attempt.reserved.payloads, self._codec, self._validator, self._registry.find)

    def _context_model(self, declared: Any) -> type[BaseModel]:
        fits = isinstance(declared, type) and issubclass(declared, BaseModel)
        return declared if fits else self._registry.context_model

    def _step_run(self, attempt: Attempt) -> StepRun:
        ref, claim = attempt.ref, attempt.claim
        sequence = iter(range(1, 2**31))

        async def emit(chunk: Any) -> None:
            await self._scripts.emit(claim, next(sequence), self._codec.encode(chunk))

        ids = {"run_id": ref.run_id, "path": ref.path, "attempt": ref.attempt}
        return StepRun(
            ref.run_id, ref.path, ref.attempt, claim.nonce, attempt.meter, emit, logging.LoggerAdapter(logger, ids)
        )

    def update_pipeline_result(self, attempt: Attempt, end: AttemptEnd) -> StepResult:
        """Fold how an attempt ended, and what a nested run used, into the result that is committed with it."""
        end.usage = {} if attempt.task.control else measure_usage(attempt.meter.used, end.output)
        feedback = None
        if end.error is not None:
            text = _text_of(end.error)
            own = isinstance(end.error, FlujoError)
            feedback = text if own else f"Agent execution failed with {type(end.error).__name__}: {text}"
        end.result = StepResult(
            name=attempt.task.step.name,
            output=end.output,
            success=end.outcome == "succeeded",
            attempts=attempt.ref.attempt,
            latency_s=time.monotonic() - attempt.started,
            token_counts=end.usage.get(TOKENS, 0),
            cost_usd=to_usd(end.usage.get(COST, 0)),
            feedback=feedback,
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
        assert end.result is not None
        payload = PostStepPayload if end.outcome == "succeeded" else OnStepFailurePayload
        ids = {"run_id": attempt.ref.run_id, "path": attempt.ref.path}
        try:
            await self._dispatch_hook(payload(**ids, step_result=end.result))
        except Exception:
            logger.exception("a hook failed after the commit; the outcome stands", extra=ids)

    async def _dispatch_hook(self, payload: HookPayload) -> None:
        """Call the hooks of this worker's registry."""
        await self._hooks.dispatch(payload)


def _stopped(attempt: Attempt, error: asyncio.CancelledError) -> AttemptEnd:
    """How an attempt ends that was cancelled: told to stop, or by awaiting something that was cancelled."""
    ref = attempt.ref
    if attempt.stop_reason == "handed_over":
        return AttemptEnd("handed_over")
    if attempt.stop_reason == "terminated":
        return AttemptEnd("failed", error=NonRetryableError(f"Run {ref.run_id} step {ref.path} was revoked."))
    if attempt.stop_reason is not None:
        ended = NonRetryableError(f"Run {ref.run_id} ended while the step was running.")
        return AttemptEnd("failed", error=ended)
    told = asyncio.CancelledError(*(error.args or ("the step cancelled itself, or awaited what was cancelled",)))
    return AttemptEnd("failed", error=told)


def _text_of(error: BaseException) -> str:
    """What an error says, as text that can be committed: user code may raise what has none, or no valid one."""
    try:
        text = str(error)
    except Exception:
        logger.exception("the text of an error could not be made")
        text = "(its text could not be made)"
    return text[:_LONGEST_FEEDBACK].encode("utf-8", "replace").decode()
