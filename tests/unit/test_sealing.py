"""Payloads that are encrypted, and messages that are signed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from flujo_client.protocol.envelopes import withhold_text
from flujo_client.protocol.errors import ConfigurationError, MessageError, PayloadError
from flujo_client.protocol.messages import StepMessage, StepRef, parse_step_message
from flujo_client.protocol.payloads import JsonCodec, read_chunk
from flujo_client.protocol.sealing import make_codec
from flujo_client.protocol.settings import Settings

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
MESSAGE = StepMessage(
    queue="q", steps=(StepRef(run_id="r", path="0", attempt=1, function="m:f", label="l", owner="pool"),)
)


def test_what_is_stored_cannot_be_read_and_comes_back() -> None:
    codec = make_codec(1 << 20, [NEW])

    stored = codec.encode({"secret": "tell nobody"})

    assert b"nobody" not in stored
    assert codec.decode(stored) == {"secret": "tell nobody"}
    assert codec.json(stored) == b'{"secret":"tell nobody"}'


def test_chunks_cannot_be_read_without_the_keys_and_come_back_with_them() -> None:
    codec = make_codec(1 << 20, [NEW])

    text = codec.encode_chunk({"secret": "tell nobody"}).decode()

    assert "nobody" not in text
    assert codec.decode_chunk(text) == {"secret": "tell nobody"}
    with pytest.raises(PayloadError, match="This chunk is encrypted"):
        read_chunk(text)


def test_keys_are_changed_by_putting_a_new_one_in_front() -> None:
    before, both, after = (make_codec(1 << 20, keys) for keys in ([OLD], [NEW, OLD], [NEW]))

    assert both.decode(before.encode(1)) == 1
    assert after.decode(both.encode(2)) == 2
    with pytest.raises(PayloadError, match="a key that this process does not have"):
        after.decode(before.encode(3))


def test_what_was_stored_before_there_were_keys_stays_readable() -> None:
    plain = make_codec(1 << 20, [])

    assert isinstance(plain, JsonCodec)
    assert make_codec(1 << 20, [NEW]).decode(plain.encode([1, 2])) == [1, 2]


def test_what_was_changed_is_refused() -> None:
    codec = make_codec(1 << 20, [NEW])
    stored = bytearray(codec.encode("right"))
    stored[40] ^= 1

    with pytest.raises(PayloadError):
        codec.decode(bytes(stored))


def test_a_key_that_is_none_and_a_missing_library_each_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"holds what is no key.*generate_key"):
        make_codec(1 << 20, ["no key"])
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)

    with pytest.raises(ConfigurationError, match=r"pip install flujo-distributed\[encryption\]"):
        make_codec(1 << 20, [NEW])


@pytest.mark.parametrize(
    ("signs", "asks", "taken"),
    [((), (), True), (("k",), (), True), (("k",), ("k",), True), (("old",), ("new", "old"), True), ((), ("k",), False), (("x",), ("k",), False)],
)  # fmt: skip
def test_whose_messages_are_taken(signs: tuple[str, ...], asks: tuple[str, ...], taken: bool) -> None:
    body = MESSAGE.signed(signs).model_dump(mode="json")

    if taken:
        assert parse_step_message(body, asks).steps == MESSAGE.steps
    else:
        with pytest.raises(MessageError, match="not signed with a key of this worker"):
            parse_step_message(body, asks)


@pytest.mark.parametrize("change", [{"run_id": "other"}, {"path": "1"}, {"attempt": 2}, {"function": "os:system"}])
def test_a_signed_message_cannot_be_changed(change: dict[str, Any]) -> None:
    body = MESSAGE.signed(["k"]).model_dump(mode="json")
    body["steps"][0] |= change

    with pytest.raises(MessageError, match="not signed"):
        parse_step_message(body, ["k"])


def test_a_traceparent_is_no_part_of_what_is_signed() -> None:
    """It changes with every publication, and asks for nothing."""
    body = MESSAGE.signed(["k"]).model_dump(mode="json") | {"traceparent": "00-1-2-01"}

    assert parse_step_message(body, ["k"]).traceparent == "00-1-2-01"


def test_keys_are_shown_by_nothing() -> None:
    settings = Settings.from_env({"FLUJO_PAYLOAD_KEYS": f"{NEW}, {OLD}", "FLUJO_MESSAGE_KEYS": "hush"})

    assert settings.sealing_keys == (NEW, OLD)
    assert settings.signing_keys == ("hush",)
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert NEW not in text
        assert "hush" not in text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(["version", "queue", "traceparent", "steps", "signature", "run_id", "path", "attempt", "x"])


@given(st.dictionaries(NAMES, JSON | st.lists(st.dictionaries(NAMES, JSON)), max_size=6))
def test_garbage_is_refused_and_nothing_else_is_raised(body: dict[str, Any]) -> None:
    try:
        message = parse_step_message(body, ())
    except MessageError:
        return
    assert message.steps


def test_what_the_engine_writes_about_values_is_sealed_where_values_are() -> None:
    sealed, plain = make_codec(1024, [NEW]), make_codec(1024, [])
    text = b'{"feedback": "secret"}'

    assert b"secret" not in sealed.seal(text)
    assert sealed.open(sealed.seal(text)) == text
    assert sealed.open(plain.seal(text)) == plain.open(text) == text
    with pytest.raises(PayloadError, match="This result is encrypted"):
        plain.open(sealed.seal(text))
    assert (sealed.private, plain.private) == (True, False)


def test_of_an_error_whose_text_is_private_only_the_name_is_told() -> None:
    assert "secret" not in repr(withhold_text(ValueError("secret")))
    assert withhold_text(ValueError("secret"))["type"] == "ValueError"
