"""What travels and what is journalled: step messages, task records, and the events of a run's stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field
from pydantic import ValidationError as PydanticValidationError

from flujo_client.protocol.errors import MessageError, SchemaMismatchError
from flujo_client.protocol.payloads import read_chunk
from flujo_client.protocol.sealing import sign, verify
from flujo_client.protocol.spec import StepSpec

__all__ = [
    "ANSWER",
    "ANY_NODE",
    "ASK",
    "CONTROL_PREFIX",
    "LAUNCH",
    "MESSAGE_VERSION",
    "SCHEMA_VERSION",
    "Event",
    "EventKind",
    "Prepared",
    "StepMessage",
    "StepOutputRef",
    "StepRef",
    "TaskRecord",
    "WakeUp",
    "parse_step_message",
]

#: Version of the Celery message; workers refuse a newer one.
MESSAGE_VERSION: Final = 1

#: Version of the records in Redis; scripts refuse another.
SCHEMA_VERSION = "1"

#: How the function of a control step begins: `flujo:next module:condition …`, the user's functions after its name.
CONTROL_PREFIX = "flujo:"

#: The kind of node of a control step that every kind has.
ANY_NODE: Final = "node"

#: The control step whose commit tells that a background step was launched.
LAUNCH = "launch"

#: The attempts of a leaf that asks a human: render the question, and apply the answer.
ASK: Final = "ask"
ANSWER: Final = "answer"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepRef(_Model):
    """One attempt to make: ids only, never a payload."""

    run_id: str = Field(max_length=128)
    path: str = Field(max_length=400)
    attempt: int = Field(ge=1)
    function: str = Field(max_length=2000, description="what the worker's registry must have")
    label: str = Field("", max_length=400, description="flujo.<pipeline>.<step>, as Flower shows it")
    owner: str = Field(max_length=128, description="manager whose inbox gets the wake-up of a refusal")


class StepMessage(_Model):
    """The body of the Celery message: one or several attempts of one queue."""

    version: Literal[1] = MESSAGE_VERSION
    queue: str = Field(max_length=120)
    traceparent: str = Field("", max_length=200)
    steps: tuple[StepRef, ...] = Field(min_length=1, max_length=100)
    signature: str = Field("", max_length=64, description="of what it asks for, where messages are signed")

    def signed(self, keys: Sequence[str]) -> StepMessage:
        """The same message with its signature; as it is without keys."""
        return self.model_copy(update={"signature": sign(keys, self._asked())}) if keys else self

    def is_signed(self, keys: Sequence[str]) -> bool:
        """Whether one of the keys signed it. Without keys no signature is asked for."""
        return not keys or verify(keys, self._asked(), self.signature)

    def _asked(self) -> bytes:
        return self.model_dump_json(include={"version", "queue", "steps"}).encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message as it leaves: signed, its PRODUCER span in it.

    Attributes:
        queue: The broker's name of its queue.
        text: As it stands in a list of Redis; "" for other brokers.
    """

    queue: str
    message: StepMessage
    text: str = ""


def parse_step_message(body: dict[str, Any], keys: Sequence[str]) -> StepMessage:
    """Read the keyword arguments of a `flujo.step` task.

    Args:
        keys: One of which must have signed it; none for installations that do not sign.

    Raises:
        MessageError: Garbage, a message of a newer release, or one that nobody signed who has a key. The dispatch stays
            journalled and is published again.
    """
    try:
        message = StepMessage.model_validate(body)
    except PydanticValidationError as error:
        raise MessageError(
            f"A flujo.step message cannot be read: {error.errors(include_url=False)[0]['msg']}.",
            suggestion="If a newer release sent it, upgrade this worker; if not, somebody else writes to this queue.",
        ) from error
    if not message.is_signed(keys):
        raise MessageError(
            f"A flujo.step message for run {message.steps[0].run_id} is not signed with a key of this worker.",
            suggestion="Give managers and workers the same FLUJO_MESSAGE_KEYS; if they have, somebody else writes to this queue.",
        )
    return message


class StepOutputRef(_Model):
    """Where an earlier step's output is, and the function by which a worker knows its type."""

    expression: Any
    function: str = ""


class TaskRecord(_Model):
    """What a worker needs beyond the ids, journalled with the dispatch and returned by reserve.lua."""

    pipeline: str
    step: StepSpec
    control: str = Field("", description="name of the composite's control step; empty for a step")
    kind: str = Field("step", description="of the node")
    roles: dict[str, str] = Field(default_factory=dict, description="control: the user's functions, by role")
    arguments: dict[str, Any] = Field(default_factory=dict, description="control: what the manager knows")
    expression: Any = Field(description="the input, as payload fields")
    references: bool = Field(False, description="control: its input is payloads by their fields, not one value")
    producer: str = "input"
    producer_type: str = "Any"
    producer_function: str = Field("", description="by which a worker knows the type of the input")
    context: tuple[str, ...] = Field((), description="payload fields: one snapshot and the deltas since")
    context_model: str = Field("", description="of the sub-pipeline around it; empty: the worker's own")
    branches: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="merge: context of each branch, by name"
    )
    outputs: dict[str, StepOutputRef] = Field(
        default_factory=dict, description="what the step reads of earlier ones, by name"
    )
    merge: str = ""
    failures: int = Field(0, description="attempts that failed before this one")


class EventKind(StrEnum):
    """What can happen to a run. Each is appended by the script named."""

    CREATED = "created"  # create_run: start it
    SUCCEEDED = "succeeded"  # commit: the output is stored
    FAILED = "failed"  # commit: an attempt failed; retry or give up
    PAUSED = "paused"  # commit: a step waits for an answer
    ABORTED = "aborted"  # commit: the step says that the run is to end
    ANSWERED = "answered"  # resume: somebody answered, perhaps before the pause is committed; ring: its time is up
    REMINDED = "reminded"  # ring: a question still waits for its answer
    REVIVED = "revived"  # revive: `how` says whether a step that was given up runs again or is dropped, or that a background body is cancelled
    BLOCKED = "blocked"  # reserve: the budget cannot pay while others hold what may come back
    UNBLOCKED = "unblocked"  # whatever freed budget: the attempt is dispatched again, its estimate reserved
    REFUSED = "refused"  # reserve, or what stopped the last that ran: the budget cannot pay
    LIMIT_WARNING = "limit_warning"  # commit, lose: the run has used 80 % of a limit; once per meter
    LOST = "lost"  # lose: the worker died, hung, or handed it over
    CANCELLED = "cancelled"  # cancel: `status` says whether somebody cancelled it or a hook aborted it
    SUSPENDED = "suspended"  # advance: nothing of the run can go on without an answer; tells followers, not managers
    FINISHED = "finished"  # finish: the result is stored; the last event
    GAP = "gap"  # emit: the run keeps no more chunks; those of the attempt from here on are left out
    CHUNK = "chunk"  # emit: a piece of a running step's stream


class Event(_Model):
    """One entry of a run's stream."""

    id: str
    kind: EventKind
    path: str
    fields: dict[str, str] = Field(default_factory=dict)

    @property
    def attempt(self) -> int:
        """The attempt that it speaks of; 0 where it speaks of the run."""
        return int(self.fields.get("attempt", "0"))

    @property
    def data(self) -> dict[str, Any]:
        """The JSON that the worker put beside the outcome."""
        return dict(pydantic_core.from_json(self.fields.get("data") or "{}"))

    @property
    def chunk(self) -> Any:
        """What a step emitted, of an event that is a chunk: text, bytes, or a JSON value; None of any other."""
        return read_chunk(self.fields["data"]) if self.kind is EventKind.CHUNK else None

    @classmethod
    def parse(cls, entry_id: bytes, flat: list[bytes] | dict[bytes, bytes]) -> Event:
        """Read a stream entry as redis-py, or a script, gives it.

        Raises:
            SchemaMismatchError: A newer release appended it.
        """
        pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
        fields = {key.decode(): value.decode() for key, value in pairs}
        try:
            kind = EventKind(fields.pop("kind"))
        except ValueError as error:
            raise SchemaMismatchError(
                f"Event {entry_id.decode()} cannot be read: {error}.",
                suggestion="A newer release appended it: upgrade this process before it serves the run; the run waits.",
            ) from error
        return cls(id=entry_id.decode(), kind=kind, path=fields.pop("path"), fields=fields)


@dataclass(frozen=True, slots=True)
class WakeUp:
    """An entry of a manager's inbox: a run has news. A hint, which may be lost or late: the run's stream has the truth.

    Attributes:
        before: Id of the outcome before the one that it carries.
        event: The outcome that was appended, where it is short.
    """

    run_id: str
    before: str = ""
    event: Event | None = None

    @classmethod
    def parse(cls, entry: bytes) -> WakeUp:
        """Read an entry as _prelude.lua writes it. What a newer release appended is left to whoever reads the stream."""
        run_id, *news = entry.split(b"\n")
        if len(news) < 6 or len(news) % 2:
            return cls(run_id.decode())
        try:
            return cls(run_id.decode(), news[0].decode(), Event.parse(news[1], news[2:]))
        except SchemaMismatchError:
            return cls(run_id.decode())
