"""What the Celery task `flujo.submit` does: start a run for a client that has only Celery, or tell it why not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flujo_client.protocol.caller import ScriptCaller
from flujo_client.protocol.errors import (
    ConfigurationError,
    FlujoError,
    MessageError,
    RunConflictError,
    StateUnavailableError,
)
from flujo_client.protocol.keys import POOL, RUN_ID_PATTERN, Keyspace
from flujo_client.protocol.quota import UsageLimits
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.sealing import make_codec
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.specs import SpecStore
from flujo_client.protocol.submission import refuse_run, submit_run
from flujo_client.protocol.wire import Wire

__all__ = ["Submission", "submit_or_refuse", "submit_patiently"]

logger = logging.getLogger(__name__)

#: How long one delivery of a submission waits for Redis. A broker counts how often it delivers a message: RabbitMQ drops one
#: after some 20 times, if it is told nothing else.
_PATIENCE_S = 30.0

_RETRY_S = 1.0

#: What the task takes, in order.
_TAKES = ("pipeline", "input", "run_id", "usage_limits", "accounts")


async def submit_patiently(submit: Callable[[], Any], run_id: str, ending: Callable[[], bool]) -> str:
    """Submit until Redis answers, for a while: the message is all that there is of the run.

    Args:
        submit: Makes the call.
        run_id: For the log.
        ending: Whether the worker is about to end, so that another must take the message.

    Raises:
        StateUnavailableError: Redis does not answer; the message must go back to its queue.
    """
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return str(await submit())
        except StateUnavailableError as error:
            if ending() or time.monotonic() > until:
                raise
            logger.warning("submission not stored yet, trying again", extra={"run_id": run_id, "error": str(error)})
            await asyncio.sleep(_RETRY_S)


@dataclass(frozen=True, slots=True)
class Submission:
    """A message of `flujo.submit`, as it came.

    Attributes:
        task_id: Of the message.
        args, kwargs: Of the task; nobody has looked at them.
        traceparent: Of the sender's span.
    """

    task_id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    traceparent: str = ""

    @property
    def given(self) -> dict[str, Any]:
        """What it says, by name."""
        return dict(zip(_TAKES, self.args, strict=False)) | dict(self.kwargs)

    @property
    def run_id(self) -> str:
        """The id of the run: the task's, unless the sender gave one, so that a second delivery starts nothing new."""
        return str(self.given.get("run_id") or self.task_id)

    def refuse_misfits(self) -> None:
        """Refuse what `flujo.submit` does not take.

        Raises:
            MessageError: Names it.
        """
        unknown = [f"'{name}'" for name in sorted(self.kwargs.keys() - set(_TAKES))]
        if len(self.args) > len(_TAKES):
            unknown.append(f"{len(self.args)} arguments")
        if unknown:
            raise MessageError(
                f"flujo.submit does not take {', '.join(unknown)}.", suggestion=f"It takes {', '.join(_TAKES)}."
            )
        if not isinstance(self.given.get("pipeline"), str):
            raise MessageError("flujo.submit needs the name of a pipeline.", suggestion="Send it as `pipeline`.")


async def submit_or_refuse(settings: Settings, submission: Submission) -> str:
    """Start a run of a published pipeline, driven by the pool; or say in a run that failed why there is none.

    Returns:
        The run id.

    Raises:
        StateUnavailableError: Redis does not answer; nothing is stored.
    """
    wire = Wire(settings.state_url)
    try:
        scripts = Scripts(ScriptCaller(wire), Keyspace(settings.namespace, settings.shards))
        try:
            await _submit(scripts, settings, submission)
        except StateUnavailableError:
            raise
        except (FlujoError, ValueError) as error:
            return await _refuse(scripts, settings, submission, error)
        return submission.run_id
    finally:
        await wire.close()


async def _submit(scripts: Scripts, settings: Settings, submission: Submission) -> None:
    submission.refuse_misfits()
    given = submission.given
    spec = await SpecStore(scripts).by_name(given["pipeline"])
    await submit_run(
        scripts,
        make_codec(settings.max_payload_bytes, settings.sealing_keys),
        spec,
        given.get("input"),
        run_id=submission.run_id,
        owner=POOL,
        limits=_limits(given.get("usage_limits")),
        accounts=_accounts(given.get("accounts")),
        traceparent=submission.traceparent,
    )


def _accounts(given: Any) -> list[str]:
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) and name.split() == [name] for name in given):
        raise MessageError("accounts of flujo.submit are names of accounts, in a list.")
    return given


def _limits(given: Any) -> UsageLimits | None:
    try:
        return None if given is None else UsageLimits.model_validate(given)
    except ConfigurationError as error:
        faults = "; ".join(error.data["faults"])
        raise MessageError(f"usage_limits of flujo.submit are no limits: {faults}.") from error


async def _refuse(scripts: Scripts, settings: Settings, submission: Submission, error: Exception) -> str:
    """Store the refusal: under the run's id, or under the task's where that cannot be an id, or belongs to a run."""
    run_id = submission.run_id
    if isinstance(error, RunConflictError) or not RUN_ID_PATTERN.fullmatch(run_id):
        run_id = submission.task_id
    pipeline = str(submission.given.get("pipeline"))
    if RUN_ID_PATTERN.fullmatch(run_id):
        await refuse_run(
            scripts,
            error,
            run_id=run_id,
            pipeline=pipeline,
            retention_ms=settings.retention_s * 1000,
            traceparent=submission.traceparent,
        )
    logger.error("submission refused", extra={"run_id": run_id, "pipeline": pipeline, "error": str(error)})
    return run_id
