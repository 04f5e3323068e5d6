"""Errors and their envelope on the wire."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

import flujo_client.protocol.errors as errors
from flujo_client.protocol.envelopes import describe_error, rebuild_error
from flujo_client.protocol.errors import (
    ContextInheritanceError,
    FlujoError,
    PricingNotConfiguredError,
    QuotaExceededError,
    RunFailedError,
    StepInvocationError,
    UsageLimitExceededError,
)

#: Errors whose constructors take facts instead of a text.
OWN_CONSTRUCTORS = {"ContextInheritanceError", "PricingNotConfiguredError", "StepInvocationError"}


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
    if not issubclass(cls, FlujoError) or name in OWN_CONSTRUCTORS:
        return
    error = cls("what is wrong.", suggestion="What to do.", run_id="r", count=3)

    again = rebuild_error(describe_error(error))

    assert type(again) is cls
    assert str(again) == "what is wrong. What to do."
    assert again.data == {"run_id": "r", "count": 3}
    assert (again.message, again.suggestion) == ("what is wrong.", "What to do.")


@pytest.mark.parametrize(
    "error",
    [
        ContextInheritanceError(["budget"], {"run_id", "n"}, "Child"),
        PricingNotConfiguredError("openai", "gpt-x"),
        StepInvocationError("draft"),
        UsageLimitExceededError("Token limit of 5 exceeded", {"step_history": []}, meter="tokens"),
        FlujoError("no.", suggestion="Do.", code="E7", cause=ValueError("deep")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_with_constructors_of_their_own_keep_their_data_on_the_wire_and_between_processes(
    error: FlujoError,
) -> None:
    wired = rebuild_error(json.loads(json.dumps(describe_error(error))))
    pickled = pickle.loads(pickle.dumps(error))

    for again in (wired, pickled):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert (again.message, again.suggestion, again.code, again.data) == (
            error.message,
            error.suggestion,
            error.code,
            error.data,
        )
    assert getattr(pickled, "result", None) == getattr(error, "result", None)


def test_facts_of_an_error_are_attributes_on_both_sides() -> None:
    lacking = rebuild_error(describe_error(ContextInheritanceError(["budget"], ["n"], "Child")))
    unpriced = rebuild_error(describe_error(PricingNotConfiguredError(None, "gpt-x")))

    assert isinstance(lacking, ContextInheritanceError)
    assert (lacking.missing_fields, lacking.parent_context_keys, lacking.child_model_name) == (
        ["budget"],
        ["n"],
        "Child",
    )
    assert isinstance(unpriced, PricingNotConfiguredError)
    assert (unpriced.provider, unpriced.model) == (None, "gpt-x")


def test_the_cause_of_an_error_is_told_by_its_class_and_its_words() -> None:
    again = rebuild_error(describe_error(FlujoError("no.", cause=KeyError("field", 7))))

    assert isinstance(again.cause, RunFailedError)
    assert (str(again.cause), again.cause.data["type"]) == ("field", "KeyError")


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
        assert name in errors.__doc__, name
    assert not issubclass(QuotaExceededError, FlujoError)
