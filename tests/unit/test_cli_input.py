"""Inputs as the command line takes them: whatever is typed becomes a value that can be sent, or one error that says why not."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_client.cli.output import parse_input
from flujo_client.protocol.errors import PayloadError
from flujo_client.protocol.payloads import JsonCodec

CODEC = JsonCodec(100_000)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_what_it_says(value: Any) -> None:
    assert parse_input(json.dumps(value)) == value


@given(st.text(st.characters(exclude_categories=())) | st.text('[]{}":,0123456789eE+-.\\untrfalsi \n'))
def test_whatever_is_typed_can_be_sent_or_is_refused_in_words(text: str) -> None:
    try:
        value = parse_input(text if text != "-" else "")
        sent = CODEC.encode(value)
    except PayloadError:
        return
    assert CODEC.decode(sent) == value


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000, "NaN", "-Infinity", '{"a": NaN}', '"\\ud800"', "\x00"])
def test_what_python_itself_would_choke_on_ends_nothing(text: str) -> None:
    with suppress(PayloadError):
        CODEC.encode(parse_input(text))
