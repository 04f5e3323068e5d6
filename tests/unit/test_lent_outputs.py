"""Outputs of earlier steps that are lent to a context: fetched when they are asked for, and not stored with it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_client import Flujo, Pipeline, PipelineContext, Step
from flujo_client.protocol.pipeline_context import lend_outputs, stored_fields
from flujo_worker.policies.earlier_outputs import EarlierOutputs


class Notes(PipelineContext):
    n: int = 0


@pytest.fixture
def fetches() -> list[int]:
    return []


@pytest.fixture
def context(fetches: list[int]) -> Notes:
    made = Notes(n=1, step_outputs={"own": 1})

    def fetch() -> dict[str, Any]:
        fetches.append(1)
        return {"a": 1, "b": {"k": [2]}}

    lend_outputs(made, fetch)
    return made


def test_nothing_is_fetched_for_who_does_not_ask(context: Notes, fetches: list[int]) -> None:
    context.n, context.extra = 5, 6
    copies = [context.model_copy(deep=True), copy.deepcopy(context), copy.copy(context)]

    assert stored_fields(context)["step_outputs"] == {"own": 1}
    assert (stored_fields(context)["n"], repr(context)[:7], fetches) == (5, "Notes(r", [])
    assert [each.step_outputs["a"] for each in copies] == [1, 1, 1]


def test_it_is_fetched_once_and_is_a_plain_dict(context: Notes, fetches: list[int]) -> None:
    assert type(context.step_outputs) is dict
    assert context.step_outputs == {"a": 1, "b": {"k": [2]}, "own": 1}
    assert fetches == [1]


@pytest.mark.parametrize(
    "read",
    [
        lambda context: context.model_dump(),
        lambda context: json.loads(context.model_dump_json()),
        dict,
        lambda context: dict(pickle.loads(pickle.dumps(context))),
    ],
)
def test_a_context_that_is_taken_as_a_whole_has_them(context: Notes, read: Callable[[Any], dict[str, Any]]) -> None:
    assert read(context)["step_outputs"] == {"a": 1, "b": {"k": [2]}, "own": 1}


def test_what_was_set_or_changed_is_stored_and_what_was_lent_is_not(context: Notes) -> None:
    context.step_outputs["mine"] = 3
    context.step_outputs["b"]["k"].append(4)

    assert stored_fields(context)["step_outputs"] == {"own": 1, "mine": 3, "b": {"k": [2, 4]}}


def test_a_field_that_is_replaced_is_stored_whole(context: Notes, fetches: list[int]) -> None:
    context.step_outputs = {"z": 1}

    assert stored_fields(context)["step_outputs"] == {"z": 1}
    assert fetches == []


def test_other_fields_that_are_not_there_and_other_models_are_as_ever(context: Notes) -> None:
    class Plain(BaseModel):
        n: int = 2

    with pytest.raises(AttributeError):
        _ = context.nothing  # type: ignore[attr-defined]  # that is the point
    assert stored_fields(Plain()) == {"n": 2}
    assert stored_fields(Notes(step_outputs={"x": 1}))["step_outputs"] == {"x": 1}


async def set_n(value: int, *, context: Notes) -> int:
    context.n += 1
    return value


async def ask(value: int, *, context: Notes) -> int:
    return len(context.step_outputs)


@pytest.mark.parametrize(("last", "reads", "output"), [(set_n, 0, 1), (ask, 1, 2)])
def test_a_run_reads_outputs_for_the_step_that_asks_alone(
    monkeypatch: pytest.MonkeyPatch, last: Callable[..., Any], reads: int, output: int
) -> None:
    asked: list[str] = []
    sound = EarlierOutputs.before

    def counted(self: EarlierOutputs, ref: Any, branch: str | None) -> Any:
        asked.append(ref.path)
        return sound(self, ref, branch)

    monkeypatch.setattr(EarlierOutputs, "before", counted)
    steps: list[Step[Any, Any]] = [Step.from_callable(set_n, name="a"), Step.from_callable(set_n, name="b")]
    result = Flujo(Pipeline([*steps, Step.from_callable(last, name="last")]), context_model=Notes).run(1)

    assert result.output == output
    assert asked == ["2"] * reads
