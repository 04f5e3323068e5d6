"""`RunDump`: everything that a run left in Redis, as data from which it can go on elsewhere, or fork."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, field_serializer
from pydantic import ValidationError as PydanticValidationError

from flujo_client.execution.decision import NodeState
from flujo_client.protocol.errors import RunConflictError, RunNotFoundError, SchemaMismatchError
from flujo_client.protocol.payloads import PayloadCodec, json_bytes
from flujo_client.protocol.replies import Claim, SpecNotKept
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.scripts.calls import fields_of, pairs_of
from flujo_client.protocol.spec import PipelineSpec
from flujo_client.protocol.specs import SpecStore

__all__ = ["RunDump", "RunDumps", "adapted"]

#: The payload that is the run's result: JSON that the engine wrote, sealed where the codec is private.
_RESULT = "result"


class RunDump(BaseModel):
    """A run's records. Payloads are JSON values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    spec: PipelineSpec
    record: dict[str, str]
    nodes: dict[str, NodeState]
    attempts: dict[str, str] = Field(default_factory=dict)
    accounts: dict[str, str] = Field(default_factory=dict)
    payloads: dict[str, Any] = Field(default_factory=dict)

    @field_serializer("nodes")
    def _short(self, nodes: dict[str, NodeState]) -> dict[str, Any]:
        return {path: node.model_dump(mode="json", exclude_defaults=True) for path, node in nodes.items()}

    @property
    def run_id(self) -> str:
        """Of the run."""
        return self.record["run_id"]

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """Read a dump. Raises `SchemaMismatchError` if a newer release wrote it."""
        try:
            return cls.model_validate(data)
        except PydanticValidationError as error:
            raise SchemaMismatchError(
                f"A run cannot be brought back: {error.errors(include_url=False)[0]['msg']}.",
                suggestion="A newer release kept it: upgrade this one.",
            ) from error

    def held(self) -> list[Claim]:
        """The attempts that somebody had leased."""
        claims = []
        for field, nonce in self.attempts.items():
            path, _, part = field.rpartition("|")
            if part == "nonce" and nonce and self.attempts.get(f"{path}|state") == "leased":
                attempt = int(self.attempts[f"{path}|attempt"])
                claims.append(Claim(self.run_id, path, attempt, nonce, "gone", queue=""))
        return claims

    def unleased(self) -> list[tuple[str, int]]:
        """Path and number of the attempts that were dispatched, or waited for budget, and that nobody had leased."""
        waiting = ("dispatched", "blocked")
        fields = [field for field, state in self.attempts.items() if field.endswith("|state") and state in waiting]
        paths = [field.rpartition("|")[0] for field in fields]
        return [(path, int(self.attempts[f"{path}|attempt"])) for path in paths]


def adapted(dump: RunDump, spec: PipelineSpec) -> RunDump:
    """A dump for a process in which the same functions have other names: a lambda's is valid in one process only.

    Args:
        spec: Of the pipeline here.

    Raises:
        RunConflictError: The run is one of another pipeline.
    """
    old, new = dump.spec.model_dump_json(), spec.model_dump_json()
    if _PROCESS_NAME.sub("", old) != _PROCESS_NAME.sub("", new):
        raise RunConflictError(
            f"Run {dump.run_id} was started with another pipeline '{dump.spec.name}' than '{spec.name}' is here.",
            suggestion="Use another run_id, or the pipeline as it was.",
            run_id=dump.run_id,
        )
    text = dump.model_dump_json()
    for before, after in zip(_PROCESS_NAME.findall(old), _PROCESS_NAME.findall(new), strict=True):
        text = text.replace(before, after)
    again = RunDump.model_validate_json(text)
    return again.model_copy(update={"spec": spec, "record": {**again.record, "spec": spec.content_hash}})


#: What a name that is valid in one process only ends with.
_PROCESS_NAME = re.compile(r"@[0-9a-f]{6,16}\b")


#: Fields of attempts that hold what was decided ahead, for the run as it was where it was.
_AHEAD = ("|then", "|message")


class RunDumps:
    """Reads dumps, and stores them as runs.

    Args:
        scripts: On the Redis that holds the runs.
        codec: Of the payloads.
        specs: Of the pipelines.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, specs: SpecStore) -> None:
        self._scripts = scripts
        self._codec = codec
        self._specs = specs

    async def read(self, run_id: str) -> RunDump:
        """A run as it is now.

        Raises:
            RunNotFoundError: No such run.
            PayloadError: In process: a value in it has no JSON form.
        """
        keys = self._scripts.keyspace.run(run_id)
        names = (keys.run, keys.nodes, keys.attempts, keys.accounts, keys.payloads)
        hashes = await asyncio.gather(*(self._scripts.commands.execute("HGETALL", name) for name in names))
        record, nodes, attempts, accounts = (fields_of(words) for words in hashes[:4])
        if not record:
            raise RunNotFoundError.of(run_id)
        over = "final" in record
        return RunDump(
            spec=await self._specs.get(record["spec"], run_id),
            record=record,
            nodes={path: NodeState.model_validate_json(text) for path, text in nodes.items()},
            attempts={} if over else {name: text for name, text in attempts.items() if not name.endswith(_AHEAD)},
            accounts=accounts,
            payloads={name.decode(): self._value(name.decode(), stored) for name, stored in pairs_of(hashes[4])},
        )

    def _value(self, name: str, stored: bytes) -> Any:
        text = self._codec.open(stored) if name == _RESULT else self._codec.json(stored)
        return pydantic_core.from_json(json_bytes(self._codec.decode(stored)) if text is None else text)

    async def restore(self, dump: RunDump, owner: str) -> bool:
        """Store a dump as a run that goes on where it was; what was under way is lost and runs again.

        Returns:
            False if there is a run of this id: it is left as it is.
        """
        events = [("lost", path, attempt, "stranger") for path, attempt in dump.unleased()]
        if not await self.store(dump, owner, events):
            return False
        for claim in dump.held():
            await self._scripts.lose(claim, owner, "died", {})
        return True

    async def store(self, dump: RunDump, owner: str, events: Sequence[tuple[str, str, int, str]]) -> bool:
        """Store a dump as a run to which something happens next; see `Scripts.restore`."""
        fresh = {"owner": owner, "applied": "0-0", "revision": "0", "operation": ""}
        payloads = {name: _stored(name, value) for name, value in dump.payloads.items()}
        nodes = {path: state.model_dump_json(exclude_defaults=True).encode() for path, state in dump.nodes.items()}
        hashes: tuple[Mapping[str, str | bytes], ...] = (
            {**{name: value for name, value in dump.record.items() if not _of_the_stream(name)}, **fresh},
            nodes,
            dump.attempts,
            dump.accounts,
            payloads,
        )
        words = (dump.run_id, owner, dump.spec.content_hash, hashes, events)
        while isinstance(stored := await self._scripts.restore(*words), SpecNotKept):
            await self._specs.keep(dump.spec, dump.run_id)
        return stored


def _of_the_stream(field: str) -> bool:
    """Whether a field of a run's record speaks of its stream of events, which is a new one."""
    return field in ("last_event", "ahead", "chunk_bytes") or field.startswith("next|")


def _stored(name: str, value: Any) -> bytes:
    """Every codec reads plain JSON."""
    return json_bytes(value) if name == _RESULT else b"j" + json_bytes(value)
