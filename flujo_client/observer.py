"""`HookObserver`: hooks that were given to `Flujo`, called in the caller's process while its own manager drives the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from flujo_client.execution.decision import Decision, NodeStatus, RunView
from flujo_client.protocol.errors import ControlFlowError
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.messages import ANSWER, CONTROL_PREFIX, Event, EventKind
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.replies import Dispatch
from flujo_client.protocol.results import (
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    StepResult,
)

__all__ = ["HookObserver"]

logger = logging.getLogger(__name__)


class HookObserver:
    """Turns what a manager does into hook calls, and tells who waits for a run that it has ended.

    Args:
        hooks: Called for everything.
        on_finish: Called after a run only.
        resources: Shown to hooks.
    """

    def __init__(self, hooks: HookDispatcher, on_finish: HookDispatcher, resources: Any) -> None:
        self._hooks = hooks
        self._on_finish = on_finish
        self._resources = resources
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._results: dict[str, dict[str, Any]] = {}

    def expect(self, run_id: str) -> asyncio.Future[None]:
        """A future that is done when the run has ended under this manager."""
        self._ended[run_id] = asyncio.get_running_loop().create_future()
        return self._ended[run_id]

    def take(self, run_id: str) -> dict[str, Any] | None:
        """The result of a run that ended under this manager, once; None if it did not."""
        self._ended.pop(run_id, None)
        return self._results.pop(run_id, None)

    async def before_run(self, payload: PreRunPayload) -> None:
        """Call the pre_run hooks."""
        await self._hooks.dispatch(payload)

    async def before_dispatch(self, run: RunView, dispatch: Dispatch) -> None:
        """Call the pre_step hooks of an attempt."""
        if "!" in dispatch.path or dispatch.function == CONTROL_PREFIX + ANSWER:
            return
        node = run.spec.node(dispatch.path)
        await self._hooks.dispatch(
            PreStepPayload(
                run_id=run.run_id,
                path=dispatch.path,
                step=node,
                attempt_number=dispatch.attempt,
                resources=self._resources,
            )
        )

    async def after_events(self, run: RunView, events: Sequence[Event], decision: Decision) -> None:
        """Call the post_step and on_step_failure hooks of the steps that ended."""
        for event in events:
            state = decision.nodes.get(event.path)
            if event.kind is EventKind.PAUSED and state is not None:
                await self._hooks.dispatch(_pause_payload(run, event))
            if event.kind not in (EventKind.SUCCEEDED, EventKind.FAILED) or state is None or "!" in event.path:
                continue
            result = StepResult(
                name=getattr(run.spec.node(event.path), "name", event.path),
                success=event.kind is EventKind.SUCCEEDED,
                attempts=state.attempt,
                latency_s=state.latency_ms / 1000,
                token_counts=state.usage.get(TOKENS, 0),
                cost_usd=to_usd(state.usage.get(COST, 0)),
                feedback=(state.error or {}).get("message"),
            )
            if result.success:
                await self._hooks.dispatch(PostStepPayload(run_id=run.run_id, path=event.path, step_result=result))
            elif state.status is NodeStatus.FAILED:
                await self._hooks.dispatch(OnStepFailurePayload(run_id=run.run_id, path=event.path, step_result=result))

    async def after_pause(self, run_id: str) -> None:
        """Wake who waits."""
        ended = self._ended.get(run_id)
        if ended is not None and not ended.done():
            ended.set_result(None)

    async def after_end(self, run_id: str, result: dict[str, Any]) -> None:
        """Call the post_run hooks, and wake who waits."""
        shown = {
            **result,
            "final_pipeline_context": None,
            "step_history": [_without_outputs(part) for part in result["step_history"]],
        }
        payload = PostRunPayload(pipeline_result=PipelineResult.model_validate(shown), resources=self._resources)
        for hooks in (self._on_finish, self._hooks):
            try:
                await hooks.dispatch(payload)
            except ControlFlowError as signal:
                logger.warning(
                    "a post_run hook cannot steer a run that has ended",
                    extra={"run_id": run_id, "signal": repr(signal)},
                )
        ended = self._ended.get(run_id)
        if ended is not None and not ended.done():
            self._results[run_id] = result
            ended.set_result(None)


def _pause_payload(run: RunView, event: Event) -> OnPauseRequestedPayload:
    name, message = getattr(run.spec.node(event.path), "name", event.path), event.data["verdict"]["message"]
    return OnPauseRequestedPayload(run_id=run.run_id, path=event.path, step_name=name, pause_message=message)


def _without_outputs(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "output": None, "step_history": [_without_outputs(inner) for inner in part.get("step_history", ())]}
