"""Secrets of an installation at work: payloads encrypted where they are stored, messages signed where they travel.

Keys are given newest first. The newest encrypts and signs; all of them decrypt and verify, so that keys are changed by putting
a new one in front, restarting everything, and taking the old one away once no run needs it any more.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
from collections.abc import Sequence
from typing import Any

from flujo_client.protocol.errors import ConfigurationError, PayloadError
from flujo_client.protocol.payloads import JsonCodec, PayloadCodec

__all__ = ["SealedCodec", "make_codec", "sign", "verify"]

#: First byte of a payload that is encrypted.
_SEALED = b"e"


def make_codec(max_bytes: int, keys: Sequence[str]) -> PayloadCodec:
    """The codec of payloads that go to other processes.

    Args:
        max_bytes: As `JsonCodec` takes it.
        keys: Of `FLUJO_PAYLOAD_KEYS`; without any, payloads are not encrypted.

    Raises:
        ConfigurationError: cryptography is not installed, or a key is none of Fernet's.
    """
    codec = JsonCodec(max_bytes)
    return SealedCodec(codec, keys) if keys else codec


class SealedCodec:
    """Payloads that only those who have a key can read: Fernet (AES-128-CBC and HMAC-SHA256) over what `inner` makes.

    Payloads that were stored before there were keys stay readable.

    Args:
        inner: Makes what is encrypted.
        keys: Newest first.

    Raises:
        ConfigurationError: See `make_codec`.
    """

    private = True

    def __init__(self, inner: PayloadCodec, keys: Sequence[str]) -> None:
        self._inner = inner
        try:
            self._fernet: Any = importlib.import_module("cryptography.fernet")  # an extra: few installations need it
            self._box = self._fernet.MultiFernet([self._fernet.Fernet(key) for key in keys])
        except ImportError as error:
            raise ConfigurationError(
                "FLUJO_PAYLOAD_KEYS needs cryptography.", suggestion="pip install flujo-distributed[encryption]."
            ) from error
        except ValueError as error:
            raise ConfigurationError(
                "FLUJO_PAYLOAD_KEYS holds what is no key.",
                suggestion="Make one: python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'.",
            ) from error

    def encode(self, value: Any) -> bytes:
        """See `PayloadCodec.encode`."""
        return self.seal(self._inner.encode(value))

    def decode(self, stored: bytes) -> Any:
        """See `PayloadCodec.decode`. Raises `PayloadError` if no key fits."""
        return self._inner.decode(self.open(stored))

    def json(self, stored: bytes) -> bytes | None:
        """See `PayloadCodec.json`. Raises `PayloadError` if no key fits."""
        return self._inner.json(self.open(stored))

    def encode_chunk(self, chunk: Any) -> bytes:
        """See `PayloadCodec.encode_chunk`."""
        return self.seal(self._inner.encode_chunk(chunk))

    def decode_chunk(self, text: str) -> Any:
        """See `PayloadCodec.decode_chunk`. Raises `PayloadError` if no key fits."""
        return self._inner.decode_chunk(self.open(text.encode()).decode())

    def seal(self, text: bytes) -> bytes:
        """See `PayloadCodec.seal`."""
        sealed: bytes = self._box.encrypt(text)
        return _SEALED + sealed

    def open(self, stored: bytes) -> bytes:
        """See `PayloadCodec.open`; what was stored before there were keys stays readable. Raises `PayloadError` if no key fits."""
        if stored[:1] != _SEALED:
            return stored
        try:
            opened: bytes = self._box.decrypt(stored[1:])
        except self._fernet.InvalidToken as error:
            raise PayloadError(
                "A payload is encrypted with a key that this process does not have.",
                suggestion="Give every process the same FLUJO_PAYLOAD_KEYS, old keys last.",
            ) from error
        return opened


def sign(keys: Sequence[str], text: bytes) -> str:
    """The signature of a message by the newest key; "" without keys."""
    return hmac.new(keys[0].encode(), text, hashlib.sha256).hexdigest() if keys else ""


def verify(keys: Sequence[str], text: bytes, signature: str) -> bool:
    """Whether a signature is by one of the keys. Without keys nothing is asked for."""
    made = [hmac.new(key.encode(), text, hashlib.sha256).hexdigest() for key in keys]
    return not keys or any([hmac.compare_digest(each, signature) for each in made])
