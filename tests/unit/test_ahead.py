"""`outlook()`: what is decided ahead of outcomes is what `advance()` decides on them, and only plain dispatches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flujo_client import Pipeline, Step, UsageLimits
from flujo_client.execution import ahead
from flujo_client.execution.advance import advance
from flujo_client.execution.ahead import Outlooks, outlook
from flujo_client.execution.decision import FRESH, Decision, RunView
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.results import PipelineContext, RunStatus
from flujo_client.protocol.spec import PipelineSpec
from tests.unit.replay import sequence, step, sub_pipeline


async def plain(number: int) -> int:
    return number


async def writes(number: int, *, context: PipelineContext) -> Any:
    return {"number": number}


async def is_odd(number: Any, context: Any) -> bool:
    return bool(number % 2)


def _step(name: str, **config: Any) -> Step[Any, Any]:
    return Step.from_callable(plain, name=name, **config)


def _begun(pipeline: Pipeline, **view: Any) -> tuple[RunView, Decision]:
    run = RunView("r", pipeline.to_spec(), RunStatus.RUNNING, {}, {}, **view)
    return run, advance(run, [Event(id="1-0", kind=EventKind.CREATED, path="root")])


def _paths(pipeline: Pipeline, **view: Any) -> list[tuple[str, str]]:
    return [(after, dispatch.path) for after, dispatch in outlook(*_begun(pipeline, **view))]


def _paths_of(*nodes: Any) -> list[tuple[str, str]]:
    run = RunView("r", PipelineSpec(name="p", root=sequence(*nodes)), RunStatus.RUNNING, {"0": FRESH}, {})
    decision = advance(run, [Event(id="1-0", kind=EventKind.CREATED, path="root")])
    return [(after, dispatch.path) for after, dispatch in outlook(run, decision)]


def test_a_chain_is_decided_ahead_to_its_last_step() -> None:
    assert _paths(Pipeline([_step(f"s{n}") for n in range(4)], name="p")) == [("0", "1"), ("1", "2"), ("2", "3")]


def test_an_outlook_ends_after_sixteen_steps() -> None:
    assert len(_paths(Pipeline([_step(f"s{n}") for n in range(40)], name="p"))) == 16


@pytest.mark.parametrize(
    ("pipeline", "paths"),
    [
        pytest.param(_step("a") >> Step.parallel("b", {"x": _step("c"), "y": _step("d")}), [], id="a split"),
        pytest.param(Pipeline([_step("a"), _step("b", queue="gpu"), _step("c")]), [], id="another queue"),
        pytest.param(
            Pipeline([Step.from_callable(writes, name="a", updates_context=True), _step("b")]), [], id="a context"
        ),
        pytest.param(Pipeline([_step("a"), Step.human_in_the_loop("ask"), _step("b")]), [], id="a question"),
        pytest.param(
            _step("a") >> Step.branch_on("choose", is_odd, {True: _step("b"), False: _step("c")}),
            [],
            id="a choice",
        ),
        pytest.param(Pipeline([_step("a")]), [], id="the end"),
    ],
)
def test_an_outlook_ends_where_more_than_a_dispatch_follows(pipeline: Pipeline, paths: list[tuple[str, str]]) -> None:
    assert _paths(pipeline.named("p")) == paths


def test_while_two_steps_are_under_way_nothing_is_decided_ahead() -> None:
    pipeline = Step.parallel("both", {"x": _step("a") >> _step("b"), "y": _step("c") >> _step("d")})
    assert _paths(Pipeline([pipeline], name="p")) == []


def test_learned_estimates_are_not_decided_ahead() -> None:
    pipeline = Pipeline([_step("a"), _step("b", estimate_quantile=0.9)], name="p")
    assert _paths(pipeline) == []


@pytest.mark.parametrize("limited", [{}, UsageLimits(total_tokens_limit=9).amounts()])
def test_what_was_decided_ahead_is_what_is_decided_on_the_outcomes(limited: dict[str, int]) -> None:
    run, decision = _begun(Pipeline([_step(f"s{n}", expected_tokens=2) for n in range(3)], name="p"))
    run = replace(run, limits=limited, free={"root": limited})
    seen = list(outlook(run, decision))

    for after, expected in seen:
        run = replace(run, nodes={**run.nodes, **decision.nodes})
        outcome = {"attempt": "1", "usage": "tokens=1", "data": '{"latency_ms":7}'}
        decision = advance(run, [Event(id="2-0", kind=EventKind.SUCCEEDED, path=after, fields=outcome)])

        assert decision.dispatches == (expected,)


def test_a_dispatch_that_a_commit_has_made_is_known_and_not_made_again() -> None:
    run, decision = _begun(Pipeline([_step("a"), _step("b"), _step("c")], name="p"))
    run = replace(run, nodes={**run.nodes, **decision.nodes})
    first = Event(id="2-0", kind=EventKind.SUCCEEDED, path="0", fields={"attempt": "1", "data": "{}", "ahead": "1"})
    second = Event(id="3-0", kind=EventKind.SUCCEEDED, path="1", fields={"attempt": "1", "data": "{}"})

    decision = advance(run, [first, second])

    assert [(dispatch.path, dispatch.ahead, dispatch.task is None) for dispatch in decision.dispatches] == [
        ("1", True, True),
        ("2", False, False),
    ]
    assert [(after, dispatch.path) for after, dispatch in outlook(run, decision)] == []


def test_a_lost_attempt_that_a_commit_had_dispatched_is_dispatched_again_on_its_terms() -> None:
    run, decision = _begun(Pipeline([_step("a"), _step("b"), _step("c")], name="p"))
    run = replace(run, nodes={**run.nodes, **decision.nodes})
    first = Event(id="2-0", kind=EventKind.SUCCEEDED, path="0", fields={"attempt": "1", "data": "{}", "ahead": "1"})
    lost = Event(id="3-0", kind=EventKind.LOST, path="1", fields={"attempt": "1", "reason": "died"})

    decision = advance(run, [first, lost])

    assert [(d.path, d.attempt, d.ahead, d.terms) for d in decision.dispatches] == [
        ("1", 1, True, None),
        ("1", 2, False, None),
    ]
    assert [(after, dispatch.path) for after, dispatch in outlook(run, decision)] == [("1", "2")]


def test_an_outlook_is_made_once_for_all_runs_of_a_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, outlooks, made = Pipeline([_step(f"s{n}") for n in range(4)], name="p"), Outlooks(), []
    sound = ahead.outlook

    def counted(*args: Any) -> Any:
        made.append(1)
        return sound(*args)

    monkeypatch.setattr(ahead, "outlook", counted)

    seen = [list(outlooks.of(*_begun(pipeline))) for _ in range(3)]

    assert seen[0] == seen[1] == seen[2] == list(sound(*_begun(pipeline)))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("pipeline", "view"),
    [
        pytest.param(
            Pipeline([_step("a"), Step.from_callable(writes, name="b")], name="p"),
            {"has_context": True},
            id="its context",
        ),
        pytest.param(
            Pipeline([_step("a"), _step("b", input="{{ steps.a }}")], name="p"), {}, id="outputs of earlier steps"
        ),
    ],
)
def test_what_depends_on_the_run_is_looked_at_for_each(
    pipeline: Pipeline, view: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    outlooks, made = Outlooks(), []
    sound = ahead.outlook

    def counted(*args: Any) -> Any:
        made.append(1)
        return sound(*args)

    monkeypatch.setattr(ahead, "outlook", counted)

    seen = [[path for path, _ in outlooks.of(*_begun(pipeline, **view))] for _ in range(2)]

    assert seen == [["0"], ["0"]]
    assert len(made) == 2


def test_outlooks_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_MOST_KNOWN", 1)
    outlooks = Outlooks()

    for name in ("p", "q", "p"):
        assert [path for path, _ in outlooks.of(*_begun(Pipeline([_step("a"), _step("b")], name=name)))] == ["0"]

    assert len(outlooks._known) == 1


async def reads_context(number: Any, *, context: PipelineContext) -> Any:
    return number


def test_what_one_run_wrote_into_its_context_is_not_what_another_gets() -> None:
    writer: Any = Step.from_callable(writes, name="a", updates_context=True)
    pipeline = Pipeline(
        [writer, Step.from_callable(reads_context, name="b"), Step.from_callable(reads_context, name="c")]
    )
    outlooks, seen = Outlooks(), []
    for form in ("snapshot", ""):
        run, decision = _begun(pipeline.named("p"))
        run = replace(run, nodes={**run.nodes, **decision.nodes})
        fields = {"attempt": "1", "data": "{}", "context": form}
        decision = advance(run, [Event(id="2-0", kind=EventKind.SUCCEEDED, path="0", fields=fields)])
        seen.append([dispatch.terms for _, dispatch in outlooks.of(run, decision)])

    assert "ctx:0" in str(seen[0])
    assert "ctx:0" not in str(seen[1])


def test_a_question_that_was_answered_before_it_is_asked_is_not_decided_ahead() -> None:
    pipeline = Pipeline([_step("a"), Step.human_in_the_loop("ask"), _step("b")], name="p")
    run = RunView("r", pipeline.to_spec(), RunStatus.RUNNING, {}, {})
    answered = Event(id="2-0", kind=EventKind.ANSWERED, path="1", fields={"how": "given"})
    decision = advance(run, [Event(id="1-0", kind=EventKind.CREATED, path="root"), answered])

    assert list(outlook(run, decision)) == []


def test_a_step_that_may_ask_for_the_output_of_a_composite_is_not_decided_before_that_is_stored() -> None:
    asks = step("asks", uses_context=True)

    assert _paths_of(sub_pipeline(step("a"), step("b")), step("c"), step("d"))[-2:] == [("0.0.1", "1"), ("1", "2")]
    assert _paths_of(sub_pipeline(step("a"), step("b")), step("c"), asks)[-1] == ("0.0.1", "1")
    assert _paths_of(step("c"), asks) == [("0", "1")]
