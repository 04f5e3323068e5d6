"""Checks before running: everything at once, each finding with its place and its remedy."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Literal

import pytest

from flujo_client import (
    ConfigurationError,
    Flujo,
    InMemoryCache,
    MissingAgentError,
    Pipeline,
    PipelineContext,
    PipelineValidationError,
    StateMachineStep,
    Step,
    UnqueueableError,
    ValidationReport,
    step,
)
from flujo_client.dsl.context_keys import unwritten_keys
from flujo_client.validation import check_pipeline, report_on


@step
async def number(value: int) -> int:
    return value


@step
async def text(value: int) -> str:
    return str(value)


@step
async def shout(value: str) -> str:
    return value.upper()


class Tone(Enum):
    CALM = "calm"
    LOUD = "loud"


def is_even(value: int, context: Any) -> bool:
    return value % 2 == 0


def tone_of(value: int, context: Any) -> Tone:
    return Tone.CALM


def word_of(value: int, context: Any) -> Literal["a", "b"]:
    return "a"


def anything(value: int, context: Any):  # type: ignore[no-untyped-def]
    return value


def at_once(value: Any, context: Any) -> bool:
    return True


def found(report: ValidationReport) -> list[tuple[str, str]]:
    return [(finding.rule, finding.place) for finding in report.findings]


def test_a_sound_pipeline_has_no_findings() -> None:
    sound = Pipeline([number, Step.branch_on("pick", is_even, {True: text, False: text}), shout], name="p")

    assert sound.validate_graph() == ValidationReport()
    assert report_on(sound).is_valid


def test_types_are_checked_at_any_depth_and_where_the_parts_of_a_composite_disagree() -> None:
    branches: dict[str, Any] = {"good": text, "bad": Step.parallel("deep", {"worse": shout, "fine": number})}
    pipeline = Pipeline([number, Step.parallel("both", branches)], name="p")

    (fault,) = pipeline.validate_graph().errors
    assert fault.rule == "inner_types"
    assert str(fault) == (
        "p: Type mismatch between steps 'number' (returns int) and 'shout' in both/bad/deep/worse (expects str)"
    )
    assert fault.suggestion == "Insert an adapter step or adjust types."
    with pytest.raises(PipelineValidationError, match="in both/bad/deep/worse"):
        Flujo(pipeline).run(1)


@pytest.mark.parametrize(
    ("condition", "branches", "default", "rule", "words"),
    [
        (anything, {"a": text}, None, "missing_default", "no default branch for keys other than 'a'"),
        (is_even, {True: text}, None, "missing_default", "may return False"),
        (tone_of, {"calm": text}, None, "missing_default", "may return 'loud'"),
        (word_of, {"a": text, "b": text, "c": text}, None, "unreachable_branch", "branch 'c' is never reached"),
        (word_of, {"a": text, "b": text}, text, "unreachable_branch", "the default branch is never reached"),
    ],
)
def test_branches_that_lack_and_branches_too_many(
    condition: Any, branches: dict[Any, Any], default: Any, rule: str, words: str
) -> None:
    pipeline = Pipeline([Step.branch_on("pick", condition, branches, default)], name="p")

    (finding,) = pipeline.validate_graph().findings
    assert (finding.rule, finding.severity, finding.place) == (rule, "warning", "p/pick")
    assert words in finding.message
    assert finding.suggestion


@pytest.mark.parametrize(
    ("condition", "branches", "default"),
    [
        (is_even, {"true": text, "false": text}, None),
        (tone_of, {Tone.CALM: text, Tone.LOUD: text}, None),
        (anything, {"a": text}, text),
        (word_of, {"a": text}, text),
    ],
)
def test_branches_that_are_in_order(condition: Any, branches: dict[Any, Any], default: Any) -> None:
    assert Pipeline([Step.branch_on("pick", condition, branches, default)]).validate_graph() == ValidationReport()


def test_states_that_nothing_leads_to_and_loops_that_cannot_go_round() -> None:
    machine = StateMachineStep.model_validate(
        {
            "name": "machine",
            "states": {"one": number, "two": number, "lost": number},
            "start_state": "one",
            "end_states": ["two"],
            "transitions": [{"from": "one", "to": "two"}],
        }
    )
    loop = Step.loop_until("round", text, at_once)

    report = Pipeline([machine, loop], name="p").validate_graph()

    assert found(report) == [("unreachable_branch", "p/machine"), ("loop_types", "p/round")]
    assert "'lost'" in report.warnings[0].message


def test_agents_that_are_missing_or_cannot_be_called_are_all_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_ALLOW_HITL", "0")
    pipeline = Pipeline(
        [
            Step(name="empty"),
            Step.parallel(
                "both", {"x": Step(name="deep"), "y": Step.from_callable(lambda value: value, name="lambda")}
            ),
            Step.human_in_the_loop("ask"),
        ]
    )

    report = report_on(pipeline)

    assert not report.is_valid
    assert {finding.rule for finding in report.errors} == {
        "missing_agent",
        "unqueueable",
        "unnamed",
        "hitl_forbidden",
    }
    assert ("missing_agent", "unnamed/both/x/deep") in found(report)
    assert all(finding.suggestion for finding in report.errors)
    assert found(Pipeline([Step(name="odd", agent=7)], name="p").validate_graph()) == [("agent", "p/odd")]


def test_everything_that_is_wrong_is_raised_at_once_whatever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_ALLOW_HITL", "0")
    bad = Pipeline(
        [
            Step.parallel("both", {"x": Step(name="deep"), "y": Pipeline()}),
            Step.human_in_the_loop("ask"),
            Step.from_callable(lambda value: value, name="lambda", input_keys=["draft"]),
            Step.branch_on("pick", is_even, {True: shout, False: Step(name="odd", agent=7)}),
            Pipeline([number, Step.parallel("deeper", {"good": number, "bad": shout})]).as_step("inner"),
        ]
    )

    with pytest.raises(PipelineValidationError) as raised:
        check_pipeline(bad, queued=True, context_keys=())

    faults = raised.value.data["faults"]
    for words in (
        "'deep' has no agent",
        "has no steps",
        "unnamed/ask: it asks a human",
        "a lambda has no name",
        "'draft'",
        "without a name",
    ):
        assert sum(words in fault for fault in faults) == 1, (words, faults)
    assert "both/x/deep" in str(raised.value)
    assert "shout' in deeper/bad" in str(raised.value)
    assert len(faults) == 8
    for fault in faults:  # each with its place and its remedy, in the text as well
        assert re.match(r"unnamed(/|: )", fault), fault
        assert len(re.findall(r"[.]( |$)", fault)) >= 2, fault
        assert fault in str(raised.value)


def test_a_cache_that_no_other_worker_shares_is_told_where_a_pipeline_is_to_be_queued() -> None:
    own = Pipeline([Step.cached(number, InMemoryCache()), Step.cached(number)], name="own")

    assert found(report_on(own)) == [("unshared_cache", "own/number")]
    assert found(own.validate_graph()) == []


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (Step(name="empty"), MissingAgentError),
        (Step(name="odd", agent=7), ConfigurationError),
        (Step.from_callable(lambda value: value, name="lambda"), UnqueueableError),
    ],
)
def test_what_is_of_one_kind_is_raised_as_that_kind_and_names_each(
    part: Step[Any, Any], error: type[Exception]
) -> None:
    twice = Pipeline([part, part.model_copy(update={"name": "second"})], name="p")

    with pytest.raises(error, match="second") as raised:
        check_pipeline(twice, queued=True)

    assert type(raised.value) is error


class Notes(PipelineContext):
    draft: str = ""


@step
async def reads_notes(value: int, *, context: Notes) -> int:
    return value


class TestContextKeys:
    @staticmethod
    def unread(*steps: Step[Any, Any], known: tuple[str, ...] = ()) -> list[str]:
        return [finding.place for finding in unwritten_keys(Pipeline(list(steps)), "p", known)]

    READS = number.model_copy(update={"name": "reads", "input_keys": ["draft.title"]})

    def test_what_nobody_can_have_written_is_found_at_any_depth(self) -> None:
        inside = Step.parallel("both", {"a": Pipeline([self.READS]), "b": number})

        assert self.unread(self.READS, inside) == ["p/reads", "p/both/a/reads"]

    @pytest.mark.parametrize(
        "writes",
        [
            {"output_keys": ["draft"]},
            {"sink_to": "draft.title"},
            {"persist_feedback_to_context": "draft"},
            {"updates_context": True},
        ],
    )
    def test_what_an_earlier_step_writes_or_may_write_is_there(self, writes: dict[str, Any]) -> None:
        writer = number.model_copy(update=writes)

        assert self.unread(writer, self.READS) == []
        assert self.unread(Step.branch_on("pick", is_even, {True: writer, False: number}), self.READS) == []
        assert self.unread(self.READS, writer) == ["p/reads"]

    def test_fields_of_the_runs_model_and_of_the_steps_own_are_there(self) -> None:
        assert self.unread(self.READS, known=("draft",)) == []
        assert self.unread(reads_notes.model_copy(update={"input_keys": ["draft"]})) == []

    def test_one_that_says_what_it_writes_writes_nothing_else(self) -> None:
        writer = reads_notes.model_copy(update={"output_keys": ["other"]})

        assert self.unread(writer, self.READS) == ["p/reads"]

    def test_a_runner_knows_its_model_and_its_data(self) -> None:
        pipeline = Pipeline([self.READS])

        with pytest.raises(PipelineValidationError, match=r"reads 'draft\.title'"):
            Flujo(pipeline).run(1)
        given = {"draft": {"title": "x"}}
        assert Flujo(pipeline).run(1, initial_context_data=given).success
        assert [finding.severity for finding in report_on(pipeline).findings if finding.rule == "context_keys"] == [
            "warning"
        ]

    def test_they_are_checked_again_when_the_values_are_there(self) -> None:
        lies = number.model_copy(update={"name": "lies", "output_keys": ["draft"]})

        result = Flujo(Pipeline([lies, self.READS])).run(1)
        deep = Flujo(Pipeline([self.READS])).run(1, initial_context_data={"draft": {}})

        assert result.step_history[0].feedback == (
            "Context validation failed: Step 'lies' has not written what it declares: 'draft'"
        )
        assert "reads what no step before it has written: 'draft.title'" in (deep.step_history[0].feedback or "")


def test_a_pipeline_without_steps_is_an_error() -> None:
    assert found(Pipeline(name="p").validate_graph()) == [("empty", "p")]
