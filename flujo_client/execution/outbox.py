"""`Outbox`: what was journalled leaves as messages, at its time, and again where it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from flujo_client.execution.ahead import FARTHEST, Outlooks
from flujo_client.execution.decision import Decision, RunView
from flujo_client.execution.fleet import Fleet, Lacking
from flujo_client.execution.graph import step_at
from flujo_client.execution.slabs import SlabMover
from flujo_client.protocol.errors import BrokerUnavailableError, FlujoError, StateUnavailableError
from flujo_client.protocol.failpoints import failpoint
from flujo_client.protocol.messages import StepRef
from flujo_client.protocol.queues import task_label
from flujo_client.protocol.replies import Advanced, Dispatch, Follower
from flujo_client.protocol.tracing import records
from flujo_client.publisher import Outgoing, Publisher, pack_messages
from flujo_client.state import SUSPECT_MS, StateManager

__all__ = ["Outbox", "Ready"]

logger = logging.getLogger(__name__)

#: Steps that are decided ahead by one script: so few that they are there when a step that does nothing has ended.
_AT_ONCE = 3

#: How long whoever took the right to publish a dispatch again has for it, until it is looked at as any other, ms.
_PUBLISHING_MS = 1_000

#: Most back-off of a step that no living worker has, ms.
_NOWHERE_MS = 5_000

#: Waiters of a named account that one script calls.
_MOST_CALLED = 100


@dataclass(frozen=True, slots=True)
class Ready:
    """Dispatches that are about to be journalled, as they will leave.

    Attributes:
        lacking: What the run needs and no living worker has: nothing leaves then.
        now: What leaves as soon as it is journalled.
        delayed: The members of those that leave later, with the delay in ms.
    """

    dispatches: Sequence[Dispatch]
    lacking: Lacking
    now: list[Outgoing]
    delayed: list[tuple[str, int]]


class Outbox:
    """Publishes the dispatches of a manager's runs.

    Args:
        state: The runs, with their journal.
        publisher: Takes the messages.
        fleet: What living workers can run; None: in process.
    """

    def __init__(self, state: StateManager, publisher: Publisher, fleet: Fleet | None) -> None:
        self._state = state
        self._publisher = publisher
        self._fleet = fleet
        self._outgoing: list[Outgoing] = []
        self._outlooks = Outlooks()
        self._slabs = SlabMover(state.scripts)
        self._making_ready = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def make_ready(self, run: RunView, dispatches: Sequence[Dispatch]) -> Ready:
        """Prepare what leaves once it is journalled. Called while Redis journals it, so that this costs the step no time."""
        self._making_ready += 1
        await asyncio.sleep(0)  # the decision leaves first
        crowded = self._making_ready > 1 or len(dispatches) > 1  # then messages will be packed
        self._making_ready -= 1
        now: list[Outgoing] = []
        delayed: list[tuple[str, int]] = []
        lacking = await self._lacking(run, dispatches[-1:])
        dispatches = [dispatch for dispatch in dispatches if not dispatch.ahead]
        for dispatch in dispatches:
            if dispatch.delay_ms:
                delayed.append((_member(run, dispatch), dispatch.delay_ms))
            else:
                now.append(self._outgoing_of(run, dispatch))
        if not crowded:
            now = [replace(outgoing, alone=self._publisher.prepare(outgoing.message)) for outgoing in now]
        return Ready(dispatches, lacking, now, delayed)

    async def _lacking(self, run: RunView, dispatches: Sequence[Dispatch]) -> Lacking:
        if self._fleet is None or not dispatches:
            return ()
        try:
            return await self._fleet.lacking(run.spec, dispatches[0].path)
        except StateUnavailableError:  # then a worker says whether it has the step
            return ()

    async def send(self, run: RunView, ready: Ready) -> None:
        """Publish what is journalled now; hold it if nobody has what the run needs: the sweep asks again."""
        if ready.lacking:
            await self._hold(run, ready.dispatches, ready.lacking)
            return
        for member, delay_ms in ready.delayed:
            asyncio.get_running_loop().call_later(delay_ms / 1000, self._publish_due, member)
        if ready.now:
            self._outgoing += ready.now
            self._keep(asyncio.create_task(self._flush()))

    def look_ahead(self, run: RunView, decision: Decision, decided: Advanced, outcomes: int) -> None:
        """Decide ahead of the outcomes what commits can go on with by themselves, while the first step is under way.

        Nothing where a script cannot publish, or where spans are recorded: those of messages that never leave would be.

        Args:
            decided: How the decision was stored.
            outcomes: How many it was made on: where they come one by one, the manager keeps up, and looks less far.
        """
        if self._publisher.beside_runs and not records() and not decision.status.terminal:
            steps = _AT_ONCE if outcomes == 1 and run.nodes else FARTHEST
            self._keep(asyncio.create_task(self._look_ahead(run, decision, decided, steps)))

    async def _look_ahead(self, run: RunView, decision: Decision, decided: Advanced, steps: int) -> None:
        await asyncio.sleep(0)  # what is sent leaves first
        following = (
            Follower(after, dispatch, self._publisher.prepare(self._outgoing_of(run, dispatch).message).text)
            for after, dispatch in islice(self._outlooks.of(run, decision), steps)
        )
        try:
            while followers := list(islice(following, _AT_ONCE)):
                if not await self._state.scripts.look_ahead(run.run_id, decided, followers):
                    return
        except FlujoError as error:  # the run goes on without: its manager decides at each outcome
            logger.info("not looked ahead", extra={"run_id": run.run_id, "error": str(error)})

    async def _hold(self, run: RunView, dispatches: Sequence[Dispatch], lacking: Lacking) -> None:
        names = ", ".join(f"{step} ({function})" for step, function in lacking)
        for dispatch in dispatches:
            await self._state.scripts.decline(
                _member(run, dispatch), dispatch.path, dispatch.attempt, names, _NOWHERE_MS
            )
        logger.info("run waits, no worker has what it needs", extra={"run_id": run.run_id, "lacking": names})

    def _outgoing_of(self, run: RunView, dispatch: Dispatch) -> Outgoing:
        ref = StepRef(
            run_id=run.run_id,
            path=dispatch.path,
            attempt=dispatch.attempt,
            function=dispatch.function,
            label=dispatch.label,
            owner=run.owner,
        )
        return Outgoing(dispatch.queue, dispatch.is_async, run.traceparent, ref)

    async def _flush(self) -> None:
        """Publish what has gathered: the runs that one reply of Redis advanced go out together."""
        steps, self._outgoing = self._outgoing, []
        if steps:
            await self._publish(steps)

    async def _publish(self, steps: Sequence[Outgoing]) -> bool:
        """Whether the broker took them."""
        try:
            failpoint("before", "publish")
            await self._publisher.publish(pack_messages(steps, self._publisher.prepare))
            failpoint("after", "publish")
        except BrokerUnavailableError as error:
            logger.warning("not published, the sweep tries again", extra={"steps": len(steps), "error": str(error)})
            return False
        return True

    def _publish_due(self, member: str) -> None:
        self._keep(asyncio.create_task(self._publish_in_time(member)))

    async def _publish_in_time(self, member: str) -> None:
        try:
            await self.redispatch(member, 0, SUSPECT_MS)
        except FlujoError as error:  # Redis is away, or this release cannot read the run
            logger.warning("not published, the sweep tries again", extra={"dispatch": member, "error": str(error)})

    async def redispatch(self, member: str, copies: int, suspect_ms: int) -> None:
        """Publish a journalled dispatch (again), unless somebody else does or it was leased.

        Its back-off begins when it is published: who dies between the right to publish it and that, or finds no broker,
        holds it up for a second only.

        Args:
            member: "run path attempt queue", as the journal names it.
            copies: How often it was published; what the journal must still say.
            suspect_ms: After how long it is looked at again.
        """
        taken_ms = await self._state.scripts.redispatch(member, copies, _PUBLISHING_MS)
        if taken_ms is None:
            return
        run_id, path, attempt, queue = member.split(" ")
        found = await self._state.read_run(run_id)
        if found is None:
            return
        run = found[1]
        state = (await self._state.load_nodes(run_id, [path]))[path]
        step = step_at(run.spec, path, state)
        label = task_label(run.spec.name, step.name)
        dispatch = Dispatch(path, int(attempt), queue, step.wanted, label, is_async=step.is_async)
        lacking = await self._lacking(run, [dispatch])
        if lacking:
            await self._hold(run, [dispatch], lacking)
            return
        if await self._publish([self._outgoing_of(run, dispatch)]):
            await self._state.scripts.look_later(member, taken_ms, copies + 1, taken_ms + suspect_ms)

    def call_waiters(self, account: str, shard: int = 0) -> asyncio.Task[None]:
        """Let those who wait on a shard for a named account go on, as far as it can pay for them now. Nobody needs to wait for it."""
        calling = asyncio.create_task(self._call_waiters(account, shard))
        self._keep(calling)
        return calling

    async def _call_waiters(self, account: str, shard: int) -> None:
        try:
            await self._slabs.serve(account, shard)
            called = [""]
            while called:
                called = await self._state.scripts.call_waiters(account, _MOST_CALLED, shard)
                await asyncio.gather(*(self.redispatch(member, 0, SUSPECT_MS) for member in called))
        except FlujoError as error:  # Redis is away, or this release cannot read a run: what was called is journalled
            logger.warning("waiters not called, the sweep looks again", extra={"account": account, "error": str(error)})

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def tasks(self) -> set[asyncio.Task[Any]]:
        """What is being published."""
        return set(self._tasks)


def _member(run: RunView, dispatch: Dispatch) -> str:
    return f"{run.run_id} {dispatch.path} {dispatch.attempt} {dispatch.queue}"
