"""`ExecutionManager`: drives any number of runs in one event loop, by `advance()`. Its state is a cache of Redis."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from flujo_client.execution.advance import advance
from flujo_client.execution.budget_news import report_budget
from flujo_client.execution.decision import Decision, RunView
from flujo_client.execution.fleet import Fleet
from flujo_client.execution.outbox import Outbox, Ready
from flujo_client.execution.pauses import alarms_of
from flujo_client.execution.undecided import AGAIN_S, MOST_TRIES, end_undecided, is_undecidable
from flujo_client.protocol.errors import ControlFlowError, StateUnavailableError
from flujo_client.protocol.messages import Event, EventKind, WakeUp
from flujo_client.protocol.metrics import ManagerMetrics
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.replies import Advanced, Forbidden, LoadedRun, SplitStale
from flujo_client.protocol.results import PipelineContext, RunStatus
from flujo_client.publisher import Publisher
from flujo_client.state import StateManager

__all__ = ["ExecutionManager", "RunKeeper", "RunObserver"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


#: What a timer here may run ahead of Redis' clock, ms.
_TIMER_SLACK_MS = 50


class RunObserver(Protocol):
    """Sees the runs that the caller's own manager drives: the place of hooks that run in the caller."""

    @property
    def asks(self) -> bool:
        """Whether it wants to know what a run's accounts have free before each decision."""

    async def before_storing(self, run: RunView, decision: Decision, told: set[str]) -> None:
        """Called before a decision is stored: what it ends is committed, what it starts has not started.

        Args:
            told: What was told before; the same decision may have to be made again.

        Raises:
            ControlFlowError: The run is to be aborted instead.
        """

    async def after_pause(self, run_id: str) -> None:
        """Called when a decision was stored after which a run waits for an answer."""

    async def after_end(self, run_id: str, result: dict[str, Any]) -> None:
        """Called when a run has ended, before its result is shown to anybody."""


class RunKeeper(Protocol):
    """Keeps runs that go on, beside Redis: the place of a state backend."""

    async def decided(self, run_id: str) -> bool:
        """Called after a decision was stored and before anything of it starts; whether the run goes on in this process."""


class ExecutionManager:
    """Reads the outcomes of runs, decides what comes next and queues it.

    Any number of managers may drive the same run: a decision is stored by compare-and-set, so the slower one finds the
    run advanced and leaves it.

    Args:
        state: The runs.
        publisher: Takes the messages.
        retention_ms: How long a finished run's records stay.
        observer: Hooks of the caller; None for runs of other people.
        on_failure: Told what was raised while a run was driven, which nobody else will drive. On a fleet others will.
        keeper: Keeps the runs that it drives; None if Redis is enough.
        fleet: What living workers can run: a run waits, and spends nothing, while a step ahead of it is nobody's. None: in process.

    Attributes:
        outbox: Publishes what its decisions dispatch.
    """

    def __init__(
        self,
        state: StateManager,
        publisher: Publisher,
        *,
        retention_ms: int,
        observer: RunObserver | None = None,
        on_failure: Callable[[BaseException], None] = lambda _: None,
        keeper: RunKeeper | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self._state = state
        self._retention_ms = retention_ms
        self._observer = observer
        self._on_failure = on_failure
        self.keeper = keeper
        self.outbox = Outbox(state, publisher, fleet)
        self._driving: dict[str, bool] = {}
        self._drives: dict[str, asyncio.Task[None]] = {}
        self._undecided: dict[str, list[BaseException]] = {}  # what was raised at each try, of runs not decided since
        self._tasks: set[asyncio.Task[Any]] = set()
        self._metrics = ManagerMetrics()
        self.advanced = 0  # decisions stored by this manager, for its metrics

    def hear(self, entry: bytes, shard: int = 0) -> None:
        """Drive the run that an entry of a shard's inbox names, see `WakeUp`; or call who waits there for a named account, `@<account>`."""
        if entry.startswith(b"@"):
            self.outbox.call_waiters(entry[1:].decode(), shard)
            return
        wake_up = WakeUp.parse(entry)
        if self._observer is None or not self._observer.asks:
            self._state.recent.hear(wake_up)
        self.wake(wake_up.run_id)

    def wake(self, run_id: str) -> None:
        """Drive a run until nothing is left to decide. Called while it is being driven: once more after that."""
        if run_id in self._driving:
            self._driving[run_id] = True
            return
        self._driving[run_id] = False
        self._drives[run_id] = asyncio.create_task(self._drive(run_id))
        self._drives[run_id].add_done_callback(functools.partial(self._judge_drive, run_id))
        self._keep(self._drives[run_id])

    @property
    def busy(self) -> bool:
        """Whether several runs are being driven at this moment: where there are so many, more wake-ups wait."""
        return len(self._driving) > 1

    def _judge_drive(self, run_id: str, drive: asyncio.Task[None]) -> None:
        error = None if drive.cancelled() else drive.exception()
        if error is None:
            self._undecided.pop(run_id, None)
            return
        logger.error("run not advanced", exc_info=error, extra={"run_id": run_id})
        if is_undecidable(error):
            self._undecided.setdefault(run_id, []).append(error)
            self._keep(asyncio.create_task(self._try_again(run_id)))
        else:
            self._on_failure(error)

    async def _try_again(self, run_id: str) -> None:
        await asyncio.sleep(AGAIN_S)
        self.wake(run_id)

    async def _end_undecided(self, run_id: str, error: BaseException) -> None:
        """End a run that nobody can decide; and one that has ended already, whose result nobody can tell."""
        loaded = await self._state.scripts.load_run(run_id, 0)
        if loaded is None:
            return
        if RunStatus(loaded.record["status"]).terminal:
            await self._finish(run_id, loaded.record["owner"], await self._state.bare_result(run_id))
            return
        outcome = await self._state.persist_workflow_state(loaded, end_undecided(loaded.record, error))
        logger.critical("run ended, nobody can decide it", extra={"run_id": run_id, "error": repr(error)})
        if isinstance(outcome, Advanced):
            del self._undecided[run_id]  # its result may be told all the same
            await self.persist_final_state(run_id, loaded.record["owner"])

    async def rest(self, run_id: str) -> None:
        """Wait until a run is not being driven."""
        while (drive := self._drives.get(run_id)) is not None:
            await asyncio.wait([drive])

    async def _drive(self, run_id: str) -> None:
        try:
            while True:
                self._driving[run_id] = False
                if len(errors := self._undecided.get(run_id, [])) >= MOST_TRIES:
                    await self._end_undecided(run_id, errors[-1])
                else:
                    await self.execute_steps(PipelineContext(run_id=run_id))
                if not self._driving[run_id]:
                    return
        except StateUnavailableError as error:
            logger.warning("run not advanced, the sweep wakes it again", extra={"run_id": run_id, "error": str(error)})
        finally:
            del self._driving[run_id], self._drives[run_id]

    async def execute_steps(self, context: PipelineContext) -> RunStatus | None:
        """Advance a run by everything that has happened to it, and queue what follows.

        Args:
            context: The run's; only its `run_id` is read.

        Returns:
            The run's status; None if it is unknown, or another manager is ahead.

        Raises:
            StateUnavailableError: Redis does not answer; nothing is lost, call again.
        """
        run_id = self._state.get_run_id_from_context(context)
        told: set[str] = set()
        with_free = self._observer is not None and self._observer.asks
        while True:
            found = await self._state.load_workflow_state(run_id, with_free=with_free)
            if found is None:
                return None
            loaded, run = found
            if run.status.terminal:
                await self._end_again(run_id, loaded.record)
                return run.status
            events = _with_cancel(loaded)
            run, decision = await self._decide(run, events)
            with_free = with_free or decision.needs_free
            if decision.needs_free or not await self._tell_observer(run, decision, told):
                continue  # and read the run
            starting = (*decision.dispatches, *decision.woken)
            preparing = self._keep(asyncio.create_task(self.outbox.make_ready(run, starting)))
            outcome = await self._state.persist_workflow_state(loaded, decision, run)
            if isinstance(outcome, SplitStale | Forbidden):
                continue
            if not isinstance(outcome, Advanced) and loaded.remembered:
                continue  # and read the run
            if not isinstance(outcome, Advanced):
                return None
            self.advanced += 1
            self._metrics.decided(run.spec.name, len(decision.dispatches) + len(decision.woken))
            report_budget(run, events, decision.applied, self._metrics)
            await self._go_on(run, decision, await preparing, outcome, len(events))
            if decision.status.terminal:
                await self.persist_final_state(run_id, run.owner)
                return decision.status
            if not (decision.incomplete or outcome.dirty):
                return decision.status

    async def _decide(self, run: RunView, events: Sequence[Event]) -> tuple[RunView, Decision]:
        """What follows from new events, and the run with the nodes that had to be read for it."""
        decision = advance(run, events)
        while decision.missing:
            more = await self._state.load_nodes(run.run_id, decision.missing)
            run = replace(run, nodes={**run.nodes, **more})
            decision = advance(run, events)
        return run, decision

    async def _end_again(self, run_id: str, record: Mapping[str, str]) -> None:
        """A run that had ended is looked at once more: its end is told and stored, unless that was done."""
        if "final" not in record:
            await self.persist_final_state(run_id, record["owner"])
        elif self._observer is not None:
            await self._observer.after_pause(run_id)  # whoever waits finds the result

    async def persist_final_state(self, run_id: str, owner: str) -> None:
        """Store the result of a run that has ended and start its retention. Once; called again it changes nothing.

        Args:
            owner: Of the run, as it was when it ended.
        """
        await self._finish(run_id, owner, await self._state.final_result(run_id))

    async def _finish(self, run_id: str, owner: str, result: dict[str, Any]) -> None:
        self.set_final_context(result, RunStatus(result["status"]))
        if self._observer is not None:
            await self._observer.after_end(run_id, result)
        if await self._state.finish(run_id, owner, json_bytes(result), self._retention_ms):
            self._metrics.run_ended(result["status"])

    def set_final_context(self, result: dict[str, Any], status: RunStatus) -> None:
        """Complete a result's context with what only the end knows: the run's id and status."""
        known = result["final_pipeline_context"].setdefault("set", {})
        known.update({"run_id": result["run_id"], "status": status.value})

    async def paused_result(self, run_id: str) -> dict[str, Any] | None:
        """The result so far of a run that waits for an answer, as `persist_final_state` stores that of one that ended.

        None if nothing of it waits any more.
        """
        result = await self._state.final_result(run_id)
        if result["status"] != RunStatus.PAUSED or result["pause_token"] is None:
            return None
        self.set_final_context(result, RunStatus.PAUSED)
        return result

    async def _tell_observer(self, run: RunView, decision: Decision, told: set[str]) -> bool:
        """Tell the caller's hooks what has happened and what would start, before the decision is stored and anything can.

        A hook that raises a control-flow signal aborts the run: nothing of the decision happens then, and what is
        committed stays. The run's owner alone decides meanwhile, so the abort is exact however long a hook takes.

        Args:
            told: What the hooks know already: the same decision may have to be made again.

        Returns:
            Whether to go on; if not, the run must be loaded again.
        """
        if self._observer is None:
            return True
        try:
            await self._observer.before_storing(run, decision, told)
        except ControlFlowError as signal:
            await self._state.scripts.abort(run.run_id, run.owner, signal.message or type(signal).__name__)
            return False
        return True

    def _set_alarms(self, run: RunView, decision: Decision) -> None:
        """Ring those that this manager lives to see; the sweep rings the others."""
        for alarm in decision.alarms:
            pause = decision.nodes[alarm.path].pause
            if alarm.at_ms is not None and pause is not None:
                delay_s = (alarm.at_ms - pause.asked_ms + _TIMER_SLACK_MS) / 1000
                asyncio.get_running_loop().call_later(delay_s, self._ring_due, run.run_id, alarm.path, alarm.what)

    async def set_alarms_of(self, run_id: str) -> None:
        """Set the alarms of a run that paused under another manager, where no sweep rings them; what is due rings at once."""
        found = await self._state.load_workflow_state(run_id)
        nodes = {} if found is None else await self._state.all_nodes(run_id)
        for path, what, due_ms in alarms_of(found[1].spec, nodes) if found is not None else ():
            await self._state.keep_alarm(run_id, path, what, due_ms)
            left_ms = due_ms - time.time() * 1000
            if left_ms <= 0:
                await self._ring(run_id, path, what)
            else:
                delay_s = (left_ms + _TIMER_SLACK_MS) / 1000
                asyncio.get_running_loop().call_later(delay_s, self._ring_due, run_id, path, what)

    def _ring_due(self, run_id: str, path: str, what: str) -> None:
        self._keep(asyncio.create_task(self._ring(run_id, path, what)))

    async def _ring(self, run_id: str, path: str, what: str) -> None:
        owner = await self._state.owner_of(run_id)
        if await self._state.scripts.ring(run_id, path, what, owner):
            self.wake(run_id)

    async def _go_on(self, run: RunView, decision: Decision, ready: Ready, decided: Advanced, outcomes: int) -> None:
        """Start what was decided, once whoever keeps the run has it."""
        if self.keeper is not None and not decision.status.terminal and not await self.keeper.decided(run.run_id):
            await self._state.scripts.cancel(run.run_id, run.owner, "another process goes on with it")
            self.wake(run.run_id)
            return
        await self.outbox.send(run, ready)
        told = self.keeper is not None or (self._observer is not None and self._observer.asks)
        if not told and not ready.lacking:  # nobody is told of each step, and somebody has what follows
            self.outbox.look_ahead(run, decision, decided, outcomes)
        self._set_alarms(run, decision)
        if decision.status is RunStatus.PAUSED and self._observer is not None:
            await self._observer.after_pause(run.run_id)

    def _keep(self, task: asyncio.Task[_T]) -> asyncio.Task[_T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle(self) -> None:
        """Wait until every run that is being driven has been advanced as far as it can be now."""
        while tasks := self._tasks | self.outbox.tasks:
            await asyncio.wait(tasks)


def _with_cancel(loaded: LoadedRun) -> list[Event]:
    """A run's new events; and its cancel, if it lies behind more outcomes than were read: the gate forbids all else."""
    events = loaded.events
    if loaded.record["gate"] != "cancelled" or not events or any(event.kind is EventKind.CANCELLED for event in events):
        return events
    fields = {"reason": loaded.record.get("reason", ""), "status": loaded.record.get("ending", "cancelled")}
    return [*events, Event(id=events[-1].id, kind=EventKind.CANCELLED, path="root", fields=fields)]
