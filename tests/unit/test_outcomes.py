"""Outcomes: from results, over the wire, and back to values or errors."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client.protocol.errors import (
    ExecutionError,
    PausedException,
    PipelineAbortSignal,
    TypeMismatchError,
    UsageLimitExceededError,
)
from flujo_client.protocol.outcomes import (
    Aborted,
    BackgroundLaunched,
    Chunk,
    Failure,
    Paused,
    StepOutcome,
    Success,
    outcome_json,
    read_outcome,
    to_outcome,
    unwrap,
)
from flujo_client.protocol.results import PipelineContext, PipelineResult, RunStatus, StepResult

GOOD, BAD = StepResult(name="a", output={"x": 1}), StepResult(name="b", success=False, feedback="no luck")

OUTCOMES: list[StepOutcome] = [
    Success(step_result=GOOD),
    Failure(feedback="no luck", step_result=BAD),
    Failure.model_validate({"error": UsageLimitExceededError("Token limit of 5 exceeded", meter="tokens")}),
    Paused(message="who?"),
    Aborted(reason="enough"),
    Chunk(data=[1, 2], step_name="a", attempt=2, sequence=7),
    BackgroundLaunched(task_id="bg_1", step_name="a"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.kind)
def test_an_outcome_survives_the_wire_by_its_tag(outcome: StepOutcome) -> None:
    again = read_outcome(outcome_json(outcome))

    assert type(again) is type(outcome)
    assert again == outcome


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (GOOD, Success(step_result=GOOD)),
        (BAD, Failure(feedback="no luck", step_result=BAD)),
        (PipelineResult(step_history=[GOOD]), Success(step_result=GOOD)),
        (PipelineResult(run_id="r"), Success(step_result=StepResult(name="r"))),
        (
            PipelineResult(step_history=[GOOD, BAD], success=False, status=RunStatus.FAILED),
            Failure(feedback="no luck", step_result=BAD),
        ),
        (
            PipelineResult(success=False, status=RunStatus.FAILED, error={"type": "X", "message": "broken"}),
            Failure(feedback="broken", error={"type": "X", "message": "broken"}),
        ),
        (
            PipelineResult(success=False, status=RunStatus.ABORTED, error={"type": "X", "message": "a hook"}),
            Aborted(reason="a hook"),
        ),
        (PipelineResult(success=False, status=RunStatus.CANCELLED), Aborted(reason="cancelled")),
        (PipelineResult(success=False, status=RunStatus.PAUSED), Paused()),
        (
            PipelineResult(
                success=False,
                status=RunStatus.PAUSED,
                final_pipeline_context=PipelineContext(pause_message="who?"),
            ),
            Paused(message="who?"),
        ),
    ],
)
def test_what_came_of_a_result(result: StepResult | PipelineResult, expected: StepOutcome) -> None:
    assert to_outcome(result) == expected


def test_a_success_unwraps_to_its_output() -> None:
    assert unwrap(to_outcome(GOOD)) == {"x": 1}


@pytest.mark.parametrize(
    ("outcome", "error", "text"),
    [
        (Failure.model_validate({"error": TypeMismatchError("no int", step="a")}), TypeMismatchError, "no int"),
        (Failure(feedback="no luck"), ExecutionError, "no luck"),
        (Failure(), ExecutionError, "without a word"),
        (Paused(message="who?"), PausedException, "who"),
        (Aborted(reason="enough"), PipelineAbortSignal, "enough"),
        (Chunk(data="x"), ExecutionError, "chunk outcome has no output"),
    ],
)
def test_what_is_no_success_unwraps_to_its_error(outcome: StepOutcome, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        unwrap(outcome)


def test_an_error_keeps_its_data_in_the_envelope() -> None:
    outcome: Any = read_outcome(outcome_json(OUTCOMES[2]))

    with pytest.raises(UsageLimitExceededError) as caught:
        unwrap(outcome)

    assert caught.value.data == {"meter": "tokens"}
