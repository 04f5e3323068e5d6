"""`DeadLetters`: steps that were given up because their workers died, and what becomes of them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from uuid import uuid4

from flujo_client.client import AsyncFlujoClient
from flujo_client.execution.decision import NodeState, NodeStatus
from flujo_client.execution.paths import node_of, order_of
from flujo_client.protocol.errors import ResumeError, RunNotFoundError
from flujo_client.protocol.results import RunStatus

__all__ = ["DeadLetter", "DeadLetters"]

#: Runs that are looked into, the newest.
_MOST_RUNS = 500

#: Field of a run's record: its dead letters were dropped, nobody wants to see them again.
_DROPPED = "dead_letters_dropped"

#: How the forks are called in which an ended run's dead letters run again, the last of them highest.
_AGAIN = re.compile(r"(.+)\.again-(\d{1,6})")

#: So long may a run's id be that its forks are called by all of it.
_LONGEST_NAME = 100


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One step that was given up.

    Attributes:
        attempt: The one that was lost last; attempts count from 1.
        story: What happened.
        waits: Its run waits for what becomes of it; if not, the run has failed with it.
    """

    run_id: str
    pipeline: str
    path: str
    step: str
    attempt: int
    story: str
    waits: bool


class DeadLetters:
    """The dead letters of one namespace.

    Args:
        client: Owned by the caller.
    """

    def __init__(self, client: AsyncFlujoClient) -> None:
        self._client = client
        self._inspector = client.inspector

    async def letters(self) -> list[DeadLetter]:
        """Those of the newest runs, newest first, but for those that were dropped or run again in a fork.

        Raises:
            StateUnavailableError: Redis does not answer.
        """
        found: list[DeadLetter] = []
        for run in await self._inspector.runs(_MOST_RUNS):
            letters = await self._of(run.run_id)
            if letters and (letters[0].waits or await self._fork_status(run.run_id) is None):
                found += letters
        return found

    async def _fork_status(self, run_id: str) -> RunStatus | None:
        """Where the fork stands in which an ended run's dead letters run again; None if there is none."""
        try:
            return await self._client.reader.status(_again(run_id))
        except RunNotFoundError:
            return None

    async def _of(self, run_id: str) -> list[DeadLetter]:
        keys = self._client.keyspace.run(run_id)
        nodes = await self._client.client.hgetall(keys.nodes)
        dead = {path.decode(): NodeState.model_validate_json(text) for path, text in nodes.items() if b'"dead' in text}
        if not dead or await self._client.client.hexists(keys.run, _DROPPED):
            return []
        snapshot = await self._inspector.snapshot(run_id)
        standing = NodeStatus.FAILED if snapshot.summary.status.terminal else NodeStatus.PAUSED
        names = {row.path: row.name for row in snapshot.steps()}
        return [
            DeadLetter(
                run_id=run_id,
                pipeline=snapshot.summary.pipeline,
                path=path,
                step=names.get(path, path),
                attempt=node.attempt,
                story=(node.error or {}).get("message", ""),
                waits=node.dead,
            )
            for path, node in sorted(dead.items())
            if node.status is standing and ((node.error or {}).get("data") or {}).get("dead_letter")
        ]

    async def retry(self, run_id: str) -> str:
        """Run the run's dead letters again.

        A run that waits goes on where it stands. One that has failed with it has ended: a fork of it goes on from that
        step, with all that was paid for and does not depend on it. If the fork has failed with a dead letter as well, that
        runs again, in the next fork. While the fork is under way nothing more is started.

        Returns:
            The run that goes on: this one, or the fork.

        Raises:
            ResumeError: It has no dead letter, somebody else said before what becomes of it, or its fork has ended
                otherwise.
            RunNotFoundError: No such run.
        """
        letters = await self._need(run_id)
        if letters[0].waits:
            await self._say(letters, "retry")
            return run_id
        again, status = _again(run_id), await self._fork_status(run_id)
        if status is None:
            first = min((node_of(letter.path) for letter in letters), key=order_of)
            return (await self._client.fork(run_id, first, new_run_id=again)).run_id
        if status in (RunStatus.FAILED, RunStatus.PAUSED) and await self._of(again):
            return await self.retry(again)
        if status.terminal:
            raise ResumeError(
                f"The dead letter of run {run_id} ran again in {again}, which is {status.value}.",
                suggestion=f"See `flujo show {again}`; `flujo fork {run_id} --from STEP` begins once more.",
            )
        return again

    async def drop(self, run_id: str) -> None:
        """Give the run's dead letters up for good: a run that waits fails with them; of one that has failed nothing is shown.

        Raises:
            ResumeError: As `retry`.
            RunNotFoundError: No such run.
        """
        letters = await self._need(run_id)
        await self._client.client.hset(self._client.keyspace.run(run_id).run, _DROPPED, 1)
        if letters[0].waits:
            await self._say(letters, "drop")

    async def _need(self, run_id: str) -> list[DeadLetter]:
        await self._client.reader.status(run_id)
        letters = await self._of(run_id)
        if not letters:
            raise ResumeError(f"Run {run_id} has no dead letter.", suggestion="`flujo dead` lists those that have.")
        return letters

    async def _say(self, letters: list[DeadLetter], how: str) -> None:
        operation = uuid4().hex
        for letter in letters:
            owner = await self._client.state.owner_of(letter.run_id)
            heard = await self._client.scripts.revive(letter.run_id, letter.path, letter.attempt, owner, operation, how)
            if heard is not True:
                raise ResumeError(
                    f"Somebody else said before what becomes of step '{letter.step}' of run {letter.run_id}.",
                    suggestion="Look with `flujo show`.",
                )


def _again(run_id: str) -> str:
    """What the fork is called in which an ended run's dead letters run again."""
    before = _AGAIN.fullmatch(run_id)
    if before:
        return f"{before[1]}.again-{int(before[2]) + 1}"
    name = run_id
    if len(run_id) > _LONGEST_NAME:
        name = f"{run_id[:_LONGEST_NAME]}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    return f"{name}.again-1"
