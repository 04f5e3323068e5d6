"""How inputs, outputs and contexts become the bytes that Redis stores beside the run, and come back.

A payload is JSON with one leading byte: `j` plain, `z` zlib. In process, `LiveCodec` stores a reference and keeps the
object itself, so that anything may flow between steps.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import pydantic_core

from flujo_client.protocol.errors import PayloadError

__all__ = [
    "LARGEST_CHUNK",
    "Expression",
    "JsonCodec",
    "LiveCodec",
    "PayloadCodec",
    "chunk_text",
    "evaluate",
    "evaluate_json",
    "expression_fields",
    "joined",
    "json_bytes",
    "read_chunk",
]

#: Payloads above this many bytes are compressed, if a sample from their middle shrinks to this share of itself.
_COMPRESS_ABOVE = 32 * 1024
_SAMPLE_BYTES = 8 * 1024
_WORTH_IT = 0.6

#: Bytes of one chunk of a stream, as JSON.
LARGEST_CHUNK = 256 * 1024

_BYTES = "$bytes"

#: Where a value comes from: a payload field; a dict of expressions by branch name; or `{"$join": [field, ...]}`, lists of
#: which one is made. No branch is called so.
Expression = str | dict[str, Any]

_JOIN = "$join"


def joined(fields: Sequence[str]) -> Expression:
    """The expression of lists, one after the other."""
    return fields[0] if len(fields) == 1 else {_JOIN: list(fields)}


def expression_fields(expression: Expression) -> list[str]:
    """The payload fields that an expression reads, in order."""
    if isinstance(expression, str):
        return [expression]
    if _JOIN in expression:
        return list(expression[_JOIN])
    return [field for part in expression.values() for field in expression_fields(part)]


def evaluate(expression: Expression, read: Callable[[str], Any]) -> Any:
    """The value of an expression.

    Args:
        read: Gives the value of a payload field.
    """
    if isinstance(expression, str):
        return read(expression)
    if _JOIN in expression:
        lists = [read(field) for field in expression[_JOIN]]
        return [item for part in lists for item in (part if isinstance(part, list) else [part])]
    return {name: evaluate(part, read) for name, part in expression.items()}


def evaluate_json(expression: Expression, read: Callable[[str], bytes | None]) -> bytes | None:
    """The JSON of an expression, joined from that of its payloads without reading them; None if they are live objects."""
    if isinstance(expression, str):
        return read(expression)
    texts = [(name, evaluate_json(part, read)) for name, part in _named_parts(expression)]
    parts = [(name, text) for name, text in texts if text is not None]
    if len(parts) < len(texts):
        return None
    if _JOIN in expression:
        return b"[" + b",".join(text[1:-1] for _, text in parts if text != b"[]") + b"]"
    return b"{" + b",".join(json_bytes(name) + b":" + text for name, text in parts) + b"}"


def _named_parts(expression: dict[str, Any]) -> list[tuple[str, Expression]]:
    return [(field, field) for field in expression[_JOIN]] if _JOIN in expression else list(expression.items())


def json_bytes(value: Any) -> bytes:
    """The JSON of a value.

    Raises:
        PayloadError: The value, or something in it, has no JSON form.
    """
    try:
        return pydantic_core.to_json(value, inf_nan_mode="constants")
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
        raise PayloadError(
            f"A value of type {type(value).__name__} cannot be sent: {error}.",
            suggestion="Return JSON values, pydantic models, dataclasses or TypedDicts.",
        ) from error


def chunk_text(chunk: Any) -> bytes:
    """A chunk of a stream as JSON, which events carry as it is: text that can be read without knowing any codec.

    Raises:
        PayloadError: It has no JSON form, or is larger than `LARGEST_CHUNK`.
    """
    if isinstance(chunk, bytes):
        chunk = {_BYTES: base64.b64encode(chunk).decode()}
    text = json_bytes(chunk)
    if len(text) > LARGEST_CHUNK:
        raise PayloadError(
            f"A chunk of {len(text)} bytes is larger than the limit of {LARGEST_CHUNK}.",
            suggestion="Emit it in pieces, or return it as the step's output.",
        )
    return text


def read_chunk(text: str) -> Any:
    """A chunk as it was emitted. The opposite of `chunk_text`. Raises `PayloadError` if it is encrypted."""
    if text.startswith("e"):  # no JSON does, but `SealedCodec`'s
        raise PayloadError(
            "This chunk is encrypted.", suggestion="Read it with Flujo.stream_async, which has the keys."
        )
    value = pydantic_core.from_json(text)
    return base64.b64decode(value[_BYTES]) if isinstance(value, dict) and value.keys() == {_BYTES} else value


class PayloadCodec(Protocol):
    """Turns values into stored payloads and back.

    Attributes:
        private: Whether only those who have a key can read what it makes: what user code says must then stand nowhere else.
    """

    private: bool

    def encode(self, value: Any) -> bytes:
        """The stored form of a value. Raises `PayloadError` if it has none."""

    def decode(self, stored: bytes) -> Any:
        """The value of a stored payload, as JSON values or the live object."""

    def json(self, stored: bytes) -> bytes | None:
        """The JSON text of a stored payload, or None where the codec keeps live objects."""

    def encode_chunk(self, chunk: Any) -> bytes:
        """A chunk of a stream as events carry it. Raises `PayloadError` if it cannot be sent."""

    def decode_chunk(self, text: str) -> Any:
        """A chunk as it was emitted."""

    def seal(self, text: bytes) -> bytes:
        """The stored form of JSON that the engine itself wrote about values, such as a run's result: as it is unless `private`."""

    def open(self, stored: bytes) -> bytes:
        """The JSON that was sealed."""


class JsonCodec:
    """Payloads for other processes.

    Args:
        max_bytes: Largest JSON that is accepted, before compression.
    """

    private = False

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def encode(self, value: Any) -> bytes:
        """See `PayloadCodec.encode`; also refuses what is larger than the limit."""
        text = json_bytes(value)
        if len(text) > self._max_bytes:
            raise PayloadError(
                f"A value of {len(text)} bytes is larger than the limit of {self._max_bytes}.",
                suggestion="Store it elsewhere and pass its address, or raise FLUJO_MAX_PAYLOAD_BYTES.",
            )
        if len(text) > _COMPRESS_ABOVE and _shrinks(text):
            return b"z" + zlib.compress(text, 1)
        return b"j" + text

    def decode(self, stored: bytes) -> Any:
        """See `PayloadCodec.decode`."""
        return pydantic_core.from_json(self.json(stored))

    def json(self, stored: bytes) -> bytes:
        """See `PayloadCodec.json`."""
        return zlib.decompress(stored[1:]) if stored[:1] == b"z" else stored[1:]

    def encode_chunk(self, chunk: Any) -> bytes:
        """See `PayloadCodec.encode_chunk`."""
        return chunk_text(chunk)

    def decode_chunk(self, text: str) -> Any:
        """See `PayloadCodec.decode_chunk`."""
        return read_chunk(text)

    def seal(self, text: bytes) -> bytes:
        """See `PayloadCodec.seal`."""
        return text

    def open(self, stored: bytes) -> bytes:
        """See `PayloadCodec.open`. Raises `PayloadError` for what another process encrypted."""
        if stored[:1] == b"e":  # no JSON does, but `SealedCodec`'s
            raise PayloadError(
                "This result is encrypted.", suggestion="Set FLUJO_PAYLOAD_KEYS as the managers have it."
            )
        return stored


def _shrinks(text: bytes) -> bool:
    """Whether compressing pays. Base64 would cost 30 ms a megabyte, at every step, to save a quarter."""
    middle = len(text) // 2
    sample = text[middle : middle + _SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) < _WORTH_IT * len(sample)


class LiveCodec:
    """Payloads that never leave the process: the store holds a number, this object the value. For the in-process mode."""

    private = False

    def __init__(self) -> None:
        self._values: dict[bytes, Any] = {}
        self._numbers = itertools.count()

    def encode(self, value: Any) -> bytes:
        """See `PayloadCodec.encode`; the value itself is kept, not a copy."""
        reference = b"l%d" % next(self._numbers)
        self._values[reference] = value
        return reference

    def forget(self, references: Iterable[bytes]) -> None:
        """Let go of values that no run refers to any more."""
        for reference in references:
            self._values.pop(reference, None)

    def decode(self, stored: bytes) -> Any:
        """See `PayloadCodec.decode`; what a backend brought back is JSON."""
        return pydantic_core.from_json(stored[1:]) if stored[:1] == b"j" else self._values[stored]

    def json(self, stored: bytes) -> bytes | None:
        """See `PayloadCodec.json`."""
        return stored[1:] if stored[:1] == b"j" else None

    def encode_chunk(self, chunk: Any) -> bytes:
        """See `PayloadCodec.encode_chunk`; the chunk itself is kept."""
        return self.encode(chunk)

    def decode_chunk(self, text: str) -> Any:
        """See `PayloadCodec.decode_chunk`."""
        return self.decode(text.encode())

    def seal(self, text: bytes) -> bytes:
        """See `PayloadCodec.seal`."""
        return text

    def open(self, stored: bytes) -> bytes:
        """See `PayloadCodec.open`."""
        return stored
