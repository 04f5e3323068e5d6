"""`PauseDesk`: the questions that runs ask, and their answers; the same for clients, `Flujo` and the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from flujo_client.execution.decision import NodeState, NodeStatus
from flujo_client.protocol.errors import ResumeError, RunNotFoundError, TypeMismatchError
from flujo_client.protocol.messages import SCHEMA_VERSION
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.replies import Answered, AnsweredBefore
from flujo_client.protocol.results import Pause, PipelineResult, RunStatus
from flujo_client.protocol.scripts.calls import schema_mismatch
from flujo_client.protocol.spec import HitlSpec, LeafSpec, PipelineSpec, StepSpec
from flujo_client.protocol.told import misfit
from flujo_client.state import StateManager

__all__ = ["PauseDesk", "paused_at"]


class PauseDesk:
    """Lists the pauses of runs and answers them.

    Args:
        state: The runs.
        codec: Of the answers.
    """

    def __init__(self, state: StateManager, codec: PayloadCodec) -> None:
        self._state = state
        self._codec = codec

    async def pauses(self, run_id: str) -> list[Pause]:
        """The questions that a run waits for now, in declared order, and its steps that were given up and wait; those are no
        questions, see `Pause.dead_letter`.

        Raises:
            RunNotFoundError: No such run.
        """
        spec, _ = await self._spec(run_id)
        nodes = await self._state.all_nodes(run_id)
        paused = [path for path, node in nodes.items() if node.status is NodeStatus.PAUSED]
        answered = await self._state.answered(run_id, paused)
        waiting = sorted((path for path in paused if path not in answered or nodes[path].dead), key=_place)
        return [_pause(run_id, path, spec, nodes[path]) for path in waiting]

    async def find(self, run_id: str, token: str | None = None) -> Pause | None:
        """The pause that an answer is meant for; None if a token names a step that has not paused yet.

        Args:
            token: Of the pause; None for the only one.

        Raises:
            ResumeError: Nothing, or several things, wait for an answer; or the token is that of no step, of one that has
                ended, was given up, or has not begun and need not pause.
            RunNotFoundError: No such run.
        """
        spec, status = await self._spec(run_id)
        if token is not None:
            leaf = _leaf(spec, run_id, token)
            node = (await self._state.load_nodes(run_id, [token]))[token]
            if node.status.ended:
                before = _told_before(leaf, token, node)
                raise ResumeError(
                    f"Run {run_id}: step {token} waits for no answer, {before or 'it has ended'}.", run_id=run_id
                )
            if isinstance(leaf, StepSpec) and not node.attempt:
                raise ResumeError(f"Run {run_id}: step {token} has not begun, it may never pause.", run_id=run_id)
            if node.dead:
                raise _dead(run_id, leaf.name)
            return _pause(run_id, token, spec, node) if node.status is NodeStatus.PAUSED else None
        standing = await self.pauses(run_id)
        waiting = [pause for pause in standing if not pause.dead_letter]
        if standing and not waiting:
            raise _dead(run_id, standing[0].step_name)
        if not waiting:
            stands = "its answer is being taken" if status == RunStatus.PAUSED else f"it is {status}"
            told = [f"run {run_id} waits for no answer, {stands}", *await self._answered_before(run_id, spec)]
            raise ResumeError(f"Pipeline is not paused: {'; '.join(told)}.", run_id=run_id)
        if len(waiting) > 1:
            tokens = ", ".join(f"{pause.token} ({pause.step_name})" for pause in waiting)
            raise ResumeError(
                f"Run {run_id} asks {len(waiting)} questions.", suggestion=f"Answer by token: {tokens}.", run_id=run_id
            )
        return waiting[0]

    async def _answered_before(self, run_id: str, spec: PipelineSpec) -> list[str]:
        """What became of the questions that the run has asked, in declared order."""
        nodes = {path: node for path, node in (await self._state.all_nodes(run_id)).items() if "!" not in path}
        paused = [path for path, node in nodes.items() if node.status is NodeStatus.PAUSED]
        taken = await self._state.answered(run_id, paused)
        places = sorted((path for path, node in nodes.items() if node.answer or path in taken), key=_place)
        return [_told_before(_leaf(spec, run_id, path), path, nodes[path], taken=path in taken) for path in places]

    async def answer(self, run_id: str, answer: Any, token: str | None = None) -> str:
        """Answer a pause, also one that is about to come. The first answer wins; durable when this returns.

        Args:
            answer: What the pause's schema asks for.
            token: Of the pause; None for the only one.

        Returns:
            The id of the event by which the run hears of it.

        Raises:
            ResumeError: As `find`; or somebody else was first, or the run has ended.
            TypeMismatchError: The answer does not fit the schema; the run stays paused.
            PayloadError: The answer cannot be sent.
            RunNotFoundError: No such run.
        """
        pause = await self.find(run_id, token)
        place = token if pause is None else pause.token
        assert place is not None
        spec, _ = await self._spec(run_id)
        payload = self._codec.encode(answer)
        if self._codec.json(payload) is not None:
            _check_answer(_leaf(spec, run_id, place), answer, run_id)
        owner = await self._state.owner_of(run_id)
        reply = await self._state.scripts.resume(run_id, place, owner, uuid4().hex, payload)
        if isinstance(reply, Answered):
            return reply.event_id
        if isinstance(reply, AnsweredBefore):
            why = "somebody else was first" if reply.how == "given" else "its time was up"
            raise ResumeError(f"Run {run_id}: the answer to step {place} came too late, {why}.", run_id=run_id)
        raise ResumeError(f"Run {run_id} takes no answer any more: it is {reply.status}.", run_id=run_id)

    async def _spec(self, run_id: str) -> tuple[PipelineSpec, str]:
        record = await self._state.record(run_id)
        if not record:
            raise RunNotFoundError.of(run_id)
        if record["schema"] != SCHEMA_VERSION:
            raise schema_mismatch(run_id, record["schema"].encode())
        return await self._state.specs.get(record["spec"], run_id), record["status"]


def _dead(run_id: str, step: str) -> ResumeError:
    return ResumeError(
        f"Run {run_id} asks nothing: step '{step}' was given up because its worker died.",
        suggestion=f"`flujo dead retry {run_id}` runs it again, `flujo dead drop {run_id}` gives it up.",
        run_id=run_id,
        step=step,
    )


def _place(path: str) -> tuple[int, ...]:
    return tuple(map(int, path.split(".")))


def _leaf(spec: PipelineSpec, run_id: str, token: str) -> LeafSpec:
    try:
        node = spec.node(token)
    except (KeyError, ValueError):
        node = spec.root
    if not isinstance(node, HitlSpec | StepSpec) or "!" in token:
        raise ResumeError(
            f"Run {run_id}: pipeline '{spec.name}' has no step {token} that could pause.", run_id=run_id, token=token
        )
    return node


def _told_before(leaf: LeafSpec, token: str, node: NodeState, *, taken: bool = False) -> str:
    """What became of a question; nothing of one that was not answered."""
    if node.answer == "expired":
        return f"the time of '{leaf.name}' (token {token}) was up"
    if node.answer or taken:
        return f"'{leaf.name}' (token {token}) was answered before, and the first answer counts"
    return ""


def _pause(run_id: str, path: str, spec: PipelineSpec, node: NodeState) -> Pause:
    leaf = _leaf(spec, run_id, path)
    assert node.pause is not None
    expires_ms = leaf.expires_ms if isinstance(leaf, HitlSpec) else None
    return Pause(
        run_id=run_id,
        expires_at=None if expires_ms is None else _moment(node.pause.asked_ms + expires_ms),
        token=path,
        step_name=leaf.name,
        message=node.pause.message,
        asked_at=_moment(node.pause.asked_ms),
        answer_schema=leaf.answer_schema if isinstance(leaf, HitlSpec) else {},
        dead_letter=node.dead,
    )


def _moment(redis_ms: int) -> datetime:
    return datetime.fromtimestamp(redis_ms / 1000, UTC)


def _check_answer(leaf: LeafSpec, answer: Any, run_id: str) -> None:
    if not isinstance(leaf, HitlSpec) or not leaf.answer_schema:
        return
    fault = misfit(leaf.answer_schema, answer)
    if fault is not None:
        raise TypeMismatchError(
            f"The answer does not fit what step '{leaf.name}' of run {run_id} asks for ({leaf.output_type}); {fault}.",
            suggestion="The run stays paused; correct the answer.",
            run_id=run_id,
            step=leaf.name,
        )


def paused_at(result: PipelineResult) -> tuple[str, str | None]:
    """The run of a paused result, and which of its questions to answer."""
    context = result.final_pipeline_context
    if context is None:
        raise ResumeError("Cannot resume pipeline without context")
    known = context if isinstance(context, dict) else vars(context)
    if RunStatus.PAUSED not in (result.status, known.get("status")):
        raise ResumeError("Pipeline is not paused")
    return result.run_id or str(known.get("run_id")), result.pause_token
