"""How values become stored payloads."""

from __future__ import annotations

import base64
import math
import random

import pytest

from flujo_client.protocol.errors import PayloadError
from flujo_client.protocol.payloads import JsonCodec, LiveCodec, PayloadCodec, expression_fields, json_bytes

PROSE = "A step's result is committed exactly once; its body runs at least once. " * 2_000
NOISE = base64.b64encode(random.Random(0).randbytes(120_000)).decode()


@pytest.mark.parametrize("value", ["short", PROSE, NOISE, PROSE + NOISE], ids=["short", "prose", "noise", "both"])
def test_what_is_decoded_is_what_was_encoded(value: str) -> None:
    codec = JsonCodec(2**20)

    stored = codec.encode(value)

    assert codec.decode(stored) == value


@pytest.mark.parametrize(("value", "form"), [("short", b"j"), (PROSE, b"z"), (NOISE, b"j")])
def test_only_what_is_large_and_shrinks_is_compressed(value: str, form: bytes) -> None:
    stored = JsonCodec(2**20).encode(value)

    assert stored[:1] == form


def test_payloads_are_compressed_when_large_and_refused_when_too_large() -> None:
    codec = JsonCodec(max_bytes=100_000)
    large = ["words and words"] * 5000

    assert codec.decode(codec.encode(large)) == large
    assert len(codec.encode(large)) < 2000
    with pytest.raises(PayloadError, match="FLUJO_MAX_PAYLOAD_BYTES"):
        codec.encode("x" * 100_001)
    with pytest.raises(PayloadError, match="type object"):
        codec.encode(object())


def test_live_payloads_are_the_objects_themselves_until_forgotten() -> None:
    codec, value = LiveCodec(), object()
    stored = codec.encode(value)
    assert codec.decode(stored) is value

    codec.forget([stored])

    with pytest.raises(KeyError):
        codec.decode(stored)


def test_an_expression_names_its_fields_in_order() -> None:
    assert expression_fields("input") == ["input"]
    assert expression_fields({"a": "out:0", "b": {"c": "out:1", "d": "res:2"}}) == ["out:0", "out:1", "res:2"]


def test_infinity_and_nan_survive() -> None:
    low, high, nan = JsonCodec(1024).decode(JsonCodec(1024).encode([-math.inf, math.inf, math.nan]))

    assert (low, high, math.isnan(nan)) == (-math.inf, math.inf, True)


@pytest.mark.parametrize("value", ["\udcff", [object()]], ids=["surrogate", "object"])
def test_what_has_no_json_form_is_refused_by_type(value: object) -> None:
    with pytest.raises(PayloadError, match="cannot be sent"):
        json_bytes(value)


def test_live_payloads_have_no_json() -> None:
    codec: PayloadCodec = LiveCodec()

    assert codec.json(b"l0") is None
