"""Reads runs: their results, their streams, and what `status`, `show` and `watch` show of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pydantic_core
from pydantic import BaseModel
from redis.exceptions import RedisError

from flujo_client.protocol.connection import RedisClient
from flujo_client.protocol.context import fold_context
from flujo_client.protocol.envelopes import STEP_FAILED, rebuild_error
from flujo_client.protocol.errors import (
    ResultTimeoutError,
    RunNotFoundError,
    StateUnavailableError,
    TypeMismatchError,
    UsageLimitExceededError,
)
from flujo_client.protocol.keys import Keyspace
from flujo_client.protocol.messages import SCHEMA_VERSION, Event, EventKind
from flujo_client.protocol.payloads import Expression, PayloadCodec, evaluate, expression_fields
from flujo_client.protocol.results import (
    PipelineContext,
    PipelineResult,
    RunStatus,
    StepResult,
    as_read,
    branch_outputs,
)
from flujo_client.protocol.scripts.calls import fields_of, schema_mismatch
from flujo_client.protocol.types import Producer, TypeValidator
from flujo_client.protocol.wire import Commands

__all__ = ["RunReader", "raise_for", "rests"]

_BLOCK_MS = 2_000

#: Events that a reader holds at a time, and all that a slow one costs: a chunk has up to 256 kB.
_PAGE = 100

#: How long a follower waits for a Redis that is away, as while it restarts, s.
_AWAY_S = 60


class RunReader:
    """Reads the runs of one namespace. Writes nothing.

    Args:
        commands: Redis for commands; owned by the caller.
        blocking_client: Redis for blocking reads; owned by the caller.
        keyspace: Makes the keys.
        codec: Of the payloads.
    """

    def __init__(
        self, commands: Commands, blocking_client: RedisClient, keyspace: Keyspace, codec: PayloadCodec
    ) -> None:
        self._commands = commands
        self._blocking = blocking_client
        self._keyspace = keyspace
        self._codec = codec

    async def status(self, run_id: str) -> RunStatus:
        """Where a run stands.

        Raises:
            RunNotFoundError: No such run.
        """
        return RunStatus((await self.record(run_id))["status"])

    async def record(self, run_id: str) -> dict[str, str]:
        """A run's record, by field.

        Raises:
            RunNotFoundError: No such run.
            SchemaMismatchError: A newer release wrote it.
            StateUnavailableError: Redis does not answer.
        """
        words = await self._commands.execute("HGETALL", self._keyspace.run(run_id).run)
        if not words:
            raise RunNotFoundError.of(run_id)
        record = fields_of(words)
        if record["schema"] != SCHEMA_VERSION:
            raise schema_mismatch(run_id, record["schema"].encode())
        return record

    async def events(self, run_id: str, after: str = "0-0") -> AsyncIterator[Event]:
        """Every event of a run after an id, in order, as they happen; ends after the last one.

        Slow readers cost nothing but their place: the stream lies in Redis.

        Raises:
            RunNotFoundError: No such run.
            StateUnavailableError: Redis has been away for a minute.
        """
        await self.record(run_id)
        key, cursor = self._keyspace.run(run_id).events, after
        while True:
            entries = await self._entries(key, cursor)
            if not entries and not await self._commands.execute("EXISTS", key):
                return
            for entry_id, fields in entries:
                event = Event.parse(entry_id, fields)
                cursor = event.id
                yield event
                if event.kind is EventKind.FINISHED:
                    return

    async def wait(self, run_id: str, timeout_s: float | None) -> None:
        """Wait until a run's result is stored.

        Raises:
            RunNotFoundError: No such run.
            ResultTimeoutError: It was not in time; the run goes on.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._follow_to_end(run_id, limit)
        except TimeoutError as error:
            raise await self._not_in_time(run_id, timeout_s) from error

    async def rest(self, run_id: str, timeout_s: float | None) -> RunStatus:
        """Wait until a run has ended, or waits for an answer; where it stands then.

        Raises:
            RunNotFoundError: No such run.
            ResultTimeoutError: It was not in time; the run goes on.
        """
        try:
            async with asyncio.timeout(timeout_s) as limit:
                key, record = self._keyspace.run(run_id).events, await self.record(run_id)
                cursor = record.get("last_event", "0-0")
                while not rests(record):
                    for entry_id, _ in await self._entries(key, cursor):
                        cursor = entry_id.decode()
                    record = await self.record(run_id)
                    _check(limit)
        except TimeoutError as error:
            raise await self._not_in_time(run_id, timeout_s) from error
        return RunStatus(record["status"])

    async def _not_in_time(self, run_id: str, timeout_s: float | None) -> ResultTimeoutError:
        status = await self.status(run_id)
        return ResultTimeoutError(
            f"Run {run_id} is {status.value} after {timeout_s} s.",
            suggestion="It waits for an answer: `flujo resume`."
            if status is RunStatus.PAUSED
            else "It goes on: ask again, watch it with `flujo watch`, or cancel it.",
            run_id=run_id,
        )

    async def _follow_to_end(self, run_id: str, limit: asyncio.Timeout) -> None:
        record = await self.record(run_id)
        if "final" in record:
            return
        key = self._keyspace.run(run_id).events
        cursor = record.get("last_event", "0-0")
        while True:
            entries = await self._entries(key, cursor)
            for entry_id, fields in entries:
                cursor = entry_id.decode()
                if fields[b"kind"] == b"finished":
                    return
            if not entries and "final" in await self.record(run_id):
                return
            _check(limit)

    async def _entries(self, key: str, cursor: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """A stream's entries after a cursor; none if none came in a moment. Redis may be away for a minute on the way."""
        away_since: float | None = None
        while True:
            try:
                answer = await self._blocking.xread({key: cursor}, count=_PAGE, block=_BLOCK_MS)
                return answer[0][1] if answer else []
            except (RedisError, OSError) as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _AWAY_S:
                    raise StateUnavailableError(
                        f"Redis has been away for {_AWAY_S} s: {error}.", suggestion="Read again from the last id."
                    ) from error
                await asyncio.sleep(0.5)

    async def result(
        self, run_id: str, *, output_type: Any = Any, context_model: type[BaseModel] = PipelineContext
    ) -> PipelineResult:
        """The result of a run that has ended, with its outputs.

        Args:
            output_type: What the last step declares; its JSON becomes that.
            context_model: Of the final context.

        Raises:
            RunNotFoundError: No such run, or it has not ended.
        """
        key = self._keyspace.run(run_id).payloads
        stored = await self._commands.execute("HGET", key, "result")
        if stored is None:
            raise RunNotFoundError(f"Run {run_id} has no result yet.", suggestion="Wait for it first.", run_id=run_id)
        return await self.complete(run_id, self._read(stored), output_type=output_type, context_model=context_model)

    async def complete(
        self,
        run_id: str,
        skeleton: dict[str, Any],
        *,
        output_type: Any = Any,
        context_model: type[BaseModel] = PipelineContext,
    ) -> PipelineResult:
        """Put outputs and the context into a result that holds references to them."""
        context = skeleton["final_pipeline_context"]
        live: dict[str, Expression] = context.get("payloads", {})
        names = {*context["$context"], *(name for part in live.values() for name in expression_fields(part))}
        for part in skeleton["step_history"]:
            names |= _references(part)
        payloads = await self._payloads(run_id, names)
        for part in skeleton["step_history"]:
            self._fill(part, payloads)
        history = skeleton["step_history"]
        if history and history[-1]["success"] and output_type is not Any:
            history[-1]["output"] = self._typed(history[-1]["output"], output_type)
        data = {
            **fold_context(self._codec.decode(payloads[name]) for name in context["$context"]),
            **context.get("set", {}),
            **{name: self._value(part, payloads) for name, part in live.items()},
        }
        if "step_outputs" in context_model.model_fields:
            data["step_outputs"] = {**_outputs(history), **data.get("step_outputs", {})}
        skeleton["final_pipeline_context"] = _modelled(data, context_model)
        return PipelineResult.model_validate(skeleton)

    async def step_result(self, run_id: str, part: dict[str, Any]) -> StepResult:
        """The result of one node, with outputs in the place of references to them."""
        self._fill(part, await self._payloads(run_id, _references(part)))
        return StepResult.model_validate(part)

    async def value(self, run_id: str, expression: Expression) -> Any:
        """A value of a run, by the payloads that make it."""
        return self._value(expression, await self._payloads(run_id, set(expression_fields(expression))))

    async def context(self, run_id: str, names: Sequence[str], model: type[BaseModel]) -> BaseModel:
        """A context of a run, by its payloads, oldest first."""
        payloads = await self._payloads(run_id, set(names))
        return _modelled(fold_context(self._codec.decode(payloads[name]) for name in names), model)

    def _read(self, stored: bytes) -> dict[str, Any]:
        skeleton: dict[str, Any] = pydantic_core.from_json(self._codec.open(stored))
        return skeleton

    def _typed(self, value: Any, output_type: Any) -> Any:
        last = Producer("output", output_type, output_type)
        try:
            return TypeValidator().validate_step_output(last, value, last)
        except TypeMismatchError:  # what it declares is not what it returned; show what it returned
            return value

    async def _payloads(self, run_id: str, names: set[str]) -> dict[str, bytes]:
        wanted = sorted(names)
        key = self._keyspace.run(run_id).payloads
        rows = await self._commands.execute("HMGET", key, *wanted) if wanted else []
        return {name: row for name, row in zip(wanted, rows, strict=True) if row is not None}

    def _fill(self, part: dict[str, Any], payloads: Mapping[str, bytes]) -> None:
        if isinstance(part.get("output"), dict) and "$payload" in part["output"]:
            part["output"] = self._value(part["output"]["$payload"], payloads)
        for inner in part.get("step_history", ()):
            self._fill(inner, payloads)
        if isinstance(part.get("output"), dict) and "$branches" in part["output"]:
            part["output"] = branch_outputs(part["output"]["$branches"], part["step_history"])

    def _value(self, expression: Expression, payloads: Mapping[str, bytes]) -> Any:
        known = {
            field: as_read(field, self._codec.decode(payloads[field]))
            for field in expression_fields(expression)
            if field in payloads
        }
        return evaluate(expression, known.get)


def _check(limit: asyncio.Timeout) -> None:
    """Raise `TimeoutError` once the time is over: redis-py can swallow the cancellation that says so."""
    if limit.expired():
        raise TimeoutError


def _outputs(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What steps that succeeded put out, by name, at any depth; the last of a name."""
    found: dict[str, Any] = {}
    for part in history:
        found |= _outputs(part.get("step_history") or ())
        if part.get("success"):
            found[part["name"]] = part.get("output")
    return found


def _modelled(data: Mapping[str, Any], model: type[BaseModel]) -> BaseModel:
    """A context as its model, which need not know every field."""
    known = model.model_config.get("extra") == "allow"
    return model.model_validate(data if known else {key: data[key] for key in data if key in model.model_fields})


def _references(part: Mapping[str, Any]) -> set[str]:
    names: set[str] = set()
    output = part.get("output")
    if isinstance(output, dict) and "$payload" in output:
        names |= set(expression_fields(output["$payload"]))
    for inner in part.get("step_history", ()):
        names |= _references(inner)
    return names


def rests(record: Mapping[str, str]) -> bool:
    """Whether a run, by its record, has ended, or waits for an answer with every event applied."""
    paused = record["status"] == RunStatus.PAUSED and record["last_event"] == record["applied"]
    return paused or "final" in record


def raise_for(result: PipelineResult) -> PipelineResult:
    """Raise the error that ended a run, with the result on it where it has a place for it; else return the result.

    A step that failed, or a hook that aborted, raises nothing: the result says so. Limits, types, contexts and cancellation raise.
    """
    if result.error is None or result.error.get("code") == STEP_FAILED or result.status is RunStatus.ABORTED:
        return result
    error = rebuild_error(result.error)
    if isinstance(error, UsageLimitExceededError):
        error.result = result
    raise error
