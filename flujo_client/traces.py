"""`TraceReader`: reads what a run's trace is built from. Writes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core

from flujo_client.execution.decision import NodeState
from flujo_client.execution.trace import build_trace, traced_inputs
from flujo_client.protocol.errors import RunNotFoundError
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import Expression, PayloadCodec, evaluate, expression_fields
from flujo_client.protocol.scripts import Scripts
from flujo_client.protocol.scripts.calls import fields_of, pairs_of
from flujo_client.protocol.specs import SpecStore
from flujo_client.protocol.traces import TraceSpan

__all__ = ["TraceReader"]

#: Events that are read at a time; chunks among them have up to 256 kB each.
_PAGE = 100

#: Characters of an input that a trace shows, and bytes of one that is read for it.
_LONGEST_INPUT = 1_000
_LARGEST_INPUT = 64 * 1024


class TraceReader:
    """Reads traces.

    Args:
        scripts: On the Redis that holds the runs.
        codec: Of the payloads.
        specs: Of the pipelines.
    """

    def __init__(self, scripts: Scripts, codec: PayloadCodec, specs: SpecStore) -> None:
        self._commands = scripts.commands
        self._keyspace = scripts.keyspace
        self._codec = codec
        self._specs = specs

    async def read(self, run_id: str) -> TraceSpan:
        """The trace tree of a run: all of it once the run has ended, else what there is so far.

        Raises:
            RunNotFoundError: No such run.
            StateUnavailableError: Redis does not answer.
            SchemaMismatchError: A newer release started the run.
        """
        keys = self._keyspace.run(run_id)
        record_words, node_words, events = await asyncio.gather(
            self._commands.execute("HGETALL", keys.run),
            self._commands.execute("HGETALL", keys.nodes),
            self._events(keys.events),
        )
        record = fields_of(record_words)
        if not record:
            raise RunNotFoundError.of(run_id)
        nodes = {path.decode(): NodeState.model_validate_json(node) for path, node in pairs_of(node_words)}
        spec = await self._specs.get(record["spec"], run_id)
        inputs: dict[str, Expression] = {"root": "input", **traced_inputs(spec, nodes)}
        results = [f"res:{path}" for path, node in nodes.items() if node.attempt and "!" not in path]
        values = list(dict.fromkeys(name for one in inputs.values() for name in expression_fields(one)))
        sizes = await asyncio.gather(*(self._commands.execute("HSTRLEN", keys.payloads, name) for name in values))
        small = [name for name, size in zip(values, sizes, strict=True) if size <= _LARGEST_INPUT]
        wanted = [*results, *small]
        rows = await self._commands.execute("HMGET", keys.payloads, *wanted) if wanted else []
        payloads = {name: self._codec.decode(row) for name, row in zip(wanted, rows, strict=True) if row is not None}
        stored = {name.removeprefix("res:"): payloads[name] for name in results if name in payloads}
        large = {name: f"({size} bytes)" for name, size in zip(values, sizes, strict=True) if size > _LARGEST_INPUT}
        known = payloads | large
        shown = {path: _text(evaluate(one, known.get)) for path, one in inputs.items()}
        return build_trace(spec, record, nodes, stored, events, shown)

    async def _events(self, key: str) -> list[Event]:
        """Every event but chunks, which may be many."""
        events: list[Event] = []
        cursor = "0-0"
        while True:
            page = await self._commands.execute("XRANGE", key, cursor, "+", "COUNT", _PAGE)
            events += [Event.parse(entry_id, fields) for entry_id, fields in page if fields[1] != b"chunk"]
            if len(page) < _PAGE:
                return events
            cursor = f"({page[-1][0].decode()}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:_LONGEST_INPUT]
    try:
        text = pydantic_core.to_json(value, inf_nan_mode="constants", fallback=lambda part: f"<{type(part).__name__}>")
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError):  # it contains itself, say
        return f"<{type(value).__name__}>"
    return text.decode()[:_LONGEST_INPUT]
