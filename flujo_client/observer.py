"""`HookObserver`: hooks that were given to `Flujo`, called in the caller's process while its own manager drives the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

from flujo_client.execution.decision import FRESH, Decision, LimitWarning, NodeState, NodeStatus, RunView
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.hook_facts import HookFacts
from flujo_client.protocol.errors import ControlFlowError, HookFailedError
from flujo_client.protocol.hooks import HookDispatcher
from flujo_client.protocol.quota import COST, TOKENS, to_usd
from flujo_client.protocol.results import (
    HookPayload,
    OnLimitPayload,
    OnLimitWarningPayload,
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
)
from flujo_client.protocol.spec import SequenceSpec

__all__ = ["HookObserver"]

logger = logging.getLogger(__name__)


class HookObserver:
    """Turns what a manager decides into hook calls, and tells who waits for a run that it has ended or pauses.

    Args:
        hooks: Called for everything but the end of a run.
        end_hooks: Called after a run.
        resources: Shown to hooks.
    """

    def __init__(self, hooks: HookDispatcher, end_hooks: HookDispatcher, resources: Any) -> None:
        self._hooks = hooks
        self._end_hooks = end_hooks
        self._resources = resources
        self._facts: HookFacts | None = None
        self._starts: dict[str, PreRunPayload] = {}
        self._ended: dict[str, asyncio.Future[None]] = {}
        self._results: dict[str, dict[str, Any]] = {}
        self._faults: dict[str, BaseException] = {}

    @property
    def asks(self) -> bool:
        """Whether there are hooks to call before a decision: what they are told is read with the run."""
        return bool(self._hooks)

    def attach(self, facts: HookFacts) -> None:
        """Name the place where facts of runs are read, before the first run."""
        self._facts = facts

    def announce(self, payload: PreRunPayload) -> None:
        """A run is about to be created: its pre_run hooks are called before anything of it is decided."""
        self._starts[payload.run_id] = payload

    def expect(self, run_id: str) -> asyncio.Future[None]:
        """A future that is done when the run has ended, or waits for an answer, under this manager."""
        self._ended[run_id] = asyncio.get_running_loop().create_future()
        return self._ended[run_id]

    def take(self, run_id: str) -> dict[str, Any] | None:
        """The result of a run that ended under this manager, once; None if it did not."""
        self._ended.pop(run_id, None)
        self._starts.pop(run_id, None)
        return self._results.pop(run_id, None)

    def fault(self, run_id: str) -> BaseException | None:
        """What a hook raised, once, where FLUJO_STRICT_HOOKS lets a faulty hook end its run."""
        return self._faults.pop(run_id, None)

    def forget(self, run_id: str) -> None:
        """Nobody waits for a run any more."""
        self.take(run_id)
        self.fault(run_id)

    async def before_storing(self, run: RunView, decision: Decision, told: set[str]) -> None:
        """Call the hooks of what the decision ends, of what it says of the run, and of what it starts.

        Raises:
            ControlFlowError: A hook ends the run.
        """
        if not self._hooks:
            return
        try:
            for key, path, tell in self._news(run, decision):
                if f"{key} {path}" not in told:
                    told.add(f"{key} {path}")
                    await tell(run, decision, path)
        except HookFailedError as fault:
            self._blame(run.run_id, fault)
            raise

    def _news(self, run: RunView, decision: Decision) -> Iterator[tuple[str, str, Any]]:
        """What there is to tell: the start of the run, ends from the innermost node outwards, pauses, the limit, and starts."""
        if run.run_id in self._starts and "root" not in run.nodes:
            yield "pre_run", "root", self._tell_run_start
        changed = [path for path in decision.nodes if _is_told(run, path)]
        for path in sorted(changed, key=lambda path: (-path.count("."), _place(path))):
            now, before = decision.nodes[path], run.nodes.get(path, FRESH)
            if now.status.ended and not before.status.ended:
                yield "end", path, self._tell_end
            elif now.status is NodeStatus.PAUSED and before.status is not NodeStatus.PAUSED:
                yield "pause", path, self._tell_pause
            elif now.reminders > before.reminders:
                yield f"reminder {now.reminders}", path, self._tell_pause
        yield from self._news_of_limits(decision)
        if not decision.status.terminal:
            for path in sorted(changed, key=_place):
                if _begins(decision.nodes[path], run.nodes.get(path, FRESH)):
                    yield "start", path, self._tell_start

    def _news_of_limits(self, decision: Decision) -> Iterator[tuple[str, str, Any]]:
        for warning in decision.warnings:
            yield f"limit_warning {warning.meter}", warning.path, partial(self._tell_warning, warning)
        path = _limit_path(decision)
        if path is not None:
            yield "limit", path, self._tell_limit

    async def _tell_run_start(self, run: RunView, decision: Decision, path: str) -> None:
        payload = self._starts.pop(run.run_id)
        context = await self._read.context(run, decision, path)
        await self._dispatch(payload.model_copy(update={"context": context}))

    async def _tell_end(self, run: RunView, decision: Decision, path: str) -> None:
        if _limit_path(decision) == path:
            return  # users of limits know: on_limit, and no on_step_failure
        result = await self._read.result(run, decision, path)
        facts = await self._place(run, decision, path)
        succeeded = decision.nodes[path].status.succeeded
        await self._dispatch((PostStepPayload if succeeded else OnStepFailurePayload)(**facts, step_result=result))

    async def _tell_pause(self, run: RunView, decision: Decision, path: str) -> None:
        pause = decision.nodes[path].pause
        assert pause is not None
        name, facts = _name(run, path), await self._place(run, decision, path)
        reminder = decision.nodes[path].reminders
        await self._dispatch(
            OnPauseRequestedPayload(**facts, step_name=name, pause_message=pause.message, reminder=reminder)
        )

    async def _tell_warning(self, warning: LimitWarning, run: RunView, decision: Decision, path: str) -> None:
        facts = await self._place(run, decision, path)
        told = {"meter": warning.meter, "used": warning.used, "limit": warning.limit}
        await self._dispatch(OnLimitWarningPayload(**facts, **told))

    async def _tell_limit(self, run: RunView, decision: Decision, path: str) -> None:
        error = decision.error or {}
        known = ("account", "meter", "asked", "free", "overrun")
        data = {key: str(value) for key, value in error["data"].items() if key in known}
        facts = await self._place(run, decision, path)
        await self._dispatch(OnLimitPayload(**facts, step_name=_name(run, path), message=error["message"], limit=data))

    async def _tell_start(self, run: RunView, decision: Decision, path: str) -> None:
        graph = RunGraph(run.spec, KINDS, lambda at: decision.nodes.get(at) or run.nodes.get(at) or FRESH)
        accounts = run.free or {}
        chain = [accounts[account] for account in graph.accounts(path) if account in accounts]
        left = {meter: sum(free.get(meter, 0) for free in chain) for meter in run.limits} if chain else {}
        await self._dispatch(
            PreStepPayload(
                **await self._place(run, decision, path),
                step=run.spec.node(path),
                step_input=await self._read.input(run, decision, path),
                attempt_number=max(1, decision.nodes[path].attempt),
                quota_before_usd=to_usd(left[COST]) if COST in left else None,
                quota_before_tokens=left.get(TOKENS),
            )
        )

    async def _place(self, run: RunView, decision: Decision, path: str) -> dict[str, Any]:
        """What payloads of every kind say."""
        context = await self._read.context(run, decision, path)
        return {"run_id": run.run_id, "path": path, "context": context, "resources": self._resources}

    @property
    def _read(self) -> HookFacts:
        assert self._facts is not None
        return self._facts

    async def _dispatch(self, payload: HookPayload) -> None:
        await self._hooks.dispatch(payload)

    async def after_pause(self, run_id: str) -> None:
        """Wake who waits."""
        ended = self._ended.get(run_id)
        if ended is not None and not ended.done():
            ended.set_result(None)

    async def after_end(self, run_id: str, result: dict[str, Any]) -> None:
        """Call the post_run hooks, and wake who waits."""
        if self._end_hooks:
            await self._tell_run_end(run_id, result)
        ended = self._ended.get(run_id)
        if ended is not None and not ended.done():
            self._results[run_id] = result
            ended.set_result(None)

    async def _tell_run_end(self, run_id: str, result: dict[str, Any]) -> None:
        shown: PipelineResult = await self._read.run_result(run_id, result)
        payload = PostRunPayload(pipeline_result=shown, context=shown.final_pipeline_context, resources=self._resources)
        try:
            await self._end_hooks.dispatch(payload)
        except HookFailedError as fault:
            self._blame(run_id, fault)
        except ControlFlowError as signal:
            logger.warning(
                "a post_run hook cannot steer a run that has ended", extra={"run_id": run_id, "signal": repr(signal)}
            )

    def _blame(self, run_id: str, fault: HookFailedError) -> None:
        """Keep what a hook raised for whoever waits for the run."""
        if run_id in self._ended:
            self._faults[run_id] = fault.__cause__ or fault


def _is_told(run: RunView, path: str) -> bool:
    """Whether hooks hear of a node: of every one that has a name of its own."""
    return path != "root" and "!" not in path and not isinstance(run.spec.node(path), SequenceSpec)


def _begins(now: NodeState, before: NodeState) -> bool:
    return now.status in (NodeStatus.DISPATCHED, NodeStatus.RUNNING) and before.status is NodeStatus.WAITING


def _limit_path(decision: Decision) -> str | None:
    """The step that the budget could not pay for, where that ends the run."""
    if decision.error is None or decision.error["type"] != "UsageLimitExceededError":
        return None
    return str(decision.error["data"].get("path", "root"))


def _place(path: str) -> tuple[int, ...]:
    return tuple(map(int, path.split(".")))


def _name(run: RunView, path: str) -> str:
    return str(getattr(run.spec.node(path.partition("!")[0]), "name", path))
