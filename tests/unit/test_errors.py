"""Errors and their envelope on the wire."""

from __future__ import annotations

from typing import Any

import pytest

import flujo_client.protocol.errors as errors
from flujo_client.protocol.errors import (
    FlujoError,
    QuotaExceededError,
    RunFailedError,
    UsageLimitExceededError,
    describe_error,
    rebuild_error,
)


def test_errors_survive_the_wire() -> None:
    error = UsageLimitExceededError("Token limit of 5 exceeded", meter="tokens")

    again = rebuild_error(describe_error(error))

    assert type(again) is UsageLimitExceededError
    assert (str(again), again.data) == (str(error), {"meter": "tokens"})
    unknown = rebuild_error(describe_error(KeyError("x")))
    assert type(unknown) is RunFailedError
    assert unknown.data["type"] == "KeyError"


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith(("Error", "Signal", "Exception"))])
def test_every_error_survives_the_wire(name: str) -> None:
    cls = getattr(errors, name)
    if not issubclass(cls, FlujoError):
        return
    error = cls("what is wrong.", suggestion="What to do.", run_id="r", count=3)

    again = rebuild_error(describe_error(error))

    assert type(again) is cls
    assert str(again) == "what is wrong. What to do."
    assert again.data == {"run_id": "r", "count": 3}


def test_data_that_is_no_json_is_told_in_words() -> None:
    error = FlujoError("x", culprit={1, 2}, name="\udcff", place={(1, 2): 3, "ok": 1})

    data = describe_error(error)["data"]

    assert data == {"culprit": "{1, 2}", "name": "?", "place": {"ok": 1}}


def test_data_that_holds_itself_is_dropped() -> None:
    endless: list[Any] = []
    endless.append(endless)

    assert describe_error(FlujoError("x", data=endless))["data"] == {}


def test_a_message_may_stand_for_the_errors_own_text() -> None:
    assert describe_error(ValueError("secret"), "told otherwise")["message"] == "told otherwise"


def test_a_class_that_is_no_error_of_ours_cannot_be_named_on_the_wire() -> None:
    assert type(rebuild_error({"type": "Any", "message": "x"})) is RunFailedError


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for name in errors.__all__:
        if name not in ("describe_error", "rebuild_error"):
            assert name in errors.__doc__, name
    assert not issubclass(QuotaExceededError, FlujoError)
