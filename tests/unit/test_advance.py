"""`advance()` by cases: what follows from each event."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client.execution.advance import advance
from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.draft import MOST_DISPATCHES
from flujo_client.protocol.messages import Event, EventKind
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import PipelineSpec, RetrySpec
from tests.unit.replay import Replay, parallel, sequence, step, task_of


def test_a_new_run_starts_its_first_step() -> None:
    run = Replay(step("a"), step("b"))

    assert run.dispatched() == [("0", 1)]
    assert task_of(run.last).expression == "input"


def test_each_step_gets_the_output_before_it() -> None:
    run = Replay(step("a", output_type="int"), step("b"))

    run.succeed("0")

    assert run.dispatched() == [("1", 1)]
    task = task_of(run.last)
    assert (task.expression, task.producer, task.producer_type) == ("out:0", "a", "int")


def test_the_last_step_completes_the_run() -> None:
    run = Replay(step("a"))

    run.succeed("0")

    assert run.status is RunStatus.COMPLETED
    assert run.dispatched() == []


def test_parallel_starts_every_branch_on_the_same_input_and_joins_in_declared_order() -> None:
    run = Replay(step("a"), parallel(step("x"), sequence(step("y"), step("z"))), step("c"))
    run.succeed("0")
    assert run.dispatched() == [("1.0.0", 1), ("1.1.0", 1)]
    assert {task_of(run.last, index).expression for index in (0, 1)} == {"out:0"}

    run.succeed("1.1.0")
    run.succeed("1.1.1")
    assert run.dispatched() == []
    run.succeed("1.0.0")

    assert run.dispatched() == [("2", 1)]
    assert task_of(run.last).expression == {"b0": "out:1.0.0", "b1": "out:1.1.1"}


def test_nested_parallel_gives_a_nested_output() -> None:
    run = Replay(parallel(parallel(step("x"), step("y")), step("z")), step("c"))
    assert run.dispatched() == [("0.0.0.0.0", 1), ("0.0.0.1.0", 1), ("0.1.0", 1)]

    for path in ("0.1.0", "0.0.0.0.0", "0.0.0.1.0"):
        run.succeed(path)

    assert task_of(run.last).expression == {"b0": {"b0": "out:0.0.0.0.0", "b1": "out:0.0.0.1.0"}, "b1": "out:0.1.0"}


def test_a_failed_attempt_is_retried_after_its_backoff_then_fails_the_run() -> None:
    run = Replay(step("a", retry=RetrySpec(retries=2, base_ms=100, jitter=False)), step("b"))

    run.fail("0")
    assert (run.dispatched(), run.last.dispatches[0].delay_ms) == ([("0", 2)], 100)
    run.fail("0")
    assert (run.dispatched(), run.last.dispatches[0].delay_ms) == ([("0", 3)], 200)
    run.fail("0")

    assert run.status is RunStatus.FAILED
    assert run.error is None  # a failed step returns a result, it does not raise
    assert run.nodes["0"].failures == 3


@pytest.mark.parametrize("extra", [{"retryable": False}, {"fatal": True}])
def test_what_is_not_worth_another_attempt_gets_none(extra: dict[str, bool]) -> None:
    run = Replay(step("a"))

    run.fail("0", **extra)

    assert run.status is RunStatus.FAILED
    assert (run.error is not None) == bool(extra.get("fatal"))


REFUSED_CALL = {"account": "root", "meter": "tokens", "asked": 60, "free": 40}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (REFUSED_CALL, "Token limit of 100 exceeded"),
        ({**REFUSED_CALL, "account": "team"}, "no money"),  # a named account: the step's own words say all
        ({**REFUSED_CALL, "meter": "pages"}, "no money"),
        ({**REFUSED_CALL, "meter": ["tokens"]}, "no money"),
        ({**REFUSED_CALL, "asked": "many"}, "no money"),
        ({}, "no money"),
    ],
)
def test_a_call_that_is_refused_inside_a_step_names_the_limit_and_its_option(
    data: dict[str, Any], message: str
) -> None:
    run = Replay(step("a"), limits={"tokens": 100})
    error = {"type": "UsageLimitExceededError", "message": "no money", "data": data}

    run.happen(EventKind.FAILED, "0", data=json_bytes({"error": error, "fatal": True}).decode())

    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["message"].startswith(message)
    assert run.nodes["0"].status is NodeStatus.FAILED


def test_never_list_stops_retries() -> None:
    run = Replay(step("a", retry=RetrySpec(retries=5, never=("ValueError",))))

    run.fail("0")

    assert run.status is RunStatus.FAILED


def test_siblings_of_a_failed_branch_run_to_their_end_then_the_run_fails() -> None:
    run = Replay(parallel(step("x"), step("y")), step("c"))

    assert not run.fail("0.0.0", retryable=False).status.terminal
    run.succeed("0.1.0")

    assert run.status is RunStatus.FAILED
    assert run.nodes["0"].failed == {0: "0.0.0"}


def test_an_ignored_branch_stands_in_the_output_as_its_result() -> None:
    run = Replay(parallel(step("x"), step("y"), on_branch_failure="ignore"), step("c"))

    run.fail("0.0.0", retryable=False)
    run.succeed("0.1.0")

    assert run.dispatched() == [("0!merge", 1)]
    (shown,) = task_of(run.last).arguments["results"]
    assert (shown["name"], shown["success"], shown["step_history"][0]["$stored"]) == ("par_b0", False, "res:0.0.0")
    run.succeed("0!merge")
    assert task_of(run.last).expression == {"b0": "failed:0!merge.0", "b1": "out:0.1.0"}


def test_an_ignored_branch_of_a_parallel_that_ended_before_its_sibling_stands_in_the_output() -> None:
    inner = parallel(step("x"), step("y"), on_branch_failure="ignore")
    run = Replay(parallel(inner, step("z")), step("c"))
    run.fail("0.0.0.0.0", retryable=False)
    run.succeed("0.0.0.1.0")
    run.succeed("0.0.0!merge")

    run.succeed("0.1.0")

    inner_output = {"b0": "failed:0.0.0!merge.0", "b1": "out:0.0.0.1.0"}
    assert task_of(run.last).expression == {"b0": inner_output, "b1": "out:0.1.0"}


def test_nested_parallels_open_in_slices_too() -> None:
    wide = parallel(*(parallel(*(step("x") for _ in range(40))) for _ in range(40)))
    run = Replay(wide)

    opened = [path for path, node in run.nodes.items() if node.attempt == 1]

    assert len(opened) == 1600
    assert run.nodes["0"].opened == 40
    assert all(run.nodes[f"0.{index}.0"].opened == 40 for index in range(40))


def test_all_branches_failing_fails_even_an_ignoring_step() -> None:
    run = Replay(parallel(step("x"), step("y"), on_branch_failure="ignore"), step("c"))

    run.fail("0.0.0", retryable=False)
    run.fail("0.1.0", retryable=False)

    assert run.status is RunStatus.FAILED


@pytest.mark.parametrize("how", ["retry", "drop"])
def test_a_step_that_pauses_when_its_worker_dies_waits_for_what_becomes_of_it(how: str) -> None:
    run = Replay(step("a", on_worker_lost="pause"), step("b"))
    run.lose("0")
    assert run.rests
    assert run.nodes["0"].dead

    run.happen(EventKind.REVIVED, "0", how=how)

    assert not run.nodes["0"].dead
    if how == "retry":
        assert run.status is RunStatus.RUNNING
        run.succeed("0")
        assert run.dispatched() == [("1", 1)]
    else:
        assert run.status is RunStatus.FAILED
        error = run.nodes["0"].error
        assert error is not None
        assert error["message"] == "step 'a' crashed its worker 1 time"
        assert error["data"]["dead_letter"]


def test_an_answer_to_a_step_that_was_given_up_is_not_its_output() -> None:
    run = Replay(step("a", on_worker_lost="pause"), step("b"))
    run.lose("0")

    run.happen(EventKind.ANSWERED, "0", how="given")

    assert run.rests
    assert (run.nodes["0"].status, run.nodes["0"].dead) == (NodeStatus.PAUSED, True)
    run.happen(EventKind.REVIVED, "0", how="retry")
    run.succeed("0")
    assert run.dispatched() == [("1", 1)]


def test_a_step_that_was_not_given_up_is_not_revived() -> None:
    run = Replay(step("a"), step("b"))
    run.lose("0")

    run.happen(EventKind.REVIVED, "0", how="drop")

    assert run.status is RunStatus.RUNNING
    assert run.nodes["0"].attempt == 2


def test_a_lost_attempt_runs_again_at_once_until_it_has_crashed_three_workers() -> None:
    run = Replay(step("a"))

    run.lose("0")
    run.lose("0")
    assert run.dispatched() == [("0", 3)]
    run.lose("0")

    assert run.status is RunStatus.FAILED
    error = run.nodes["0"].error
    assert error is not None
    assert "crashed its worker 3 times" in error["message"]


@pytest.mark.parametrize("reason", ["handed_over", "stranger"])
def test_what_was_handed_over_counts_as_no_delivery(reason: str) -> None:
    run = Replay(step("a"))

    for _ in range(5):
        run.lose("0", reason)

    assert run.dispatched() == [("0", 6)]
    assert run.nodes["0"].losses == 0


def test_a_step_may_choose_to_fail_when_its_worker_dies() -> None:
    run = Replay(step("a", on_worker_lost="fail"))

    run.lose("0")

    assert run.status is RunStatus.FAILED


def test_stale_and_repeated_events_change_nothing() -> None:
    run = Replay(step("a"), step("b"))
    run.lose("0")
    stale = Event(id="90-0", kind=EventKind.SUCCEEDED, path="0", fields={"attempt": "1"})

    decision = run.decide(stale)

    assert decision.nodes == {}
    assert decision.dispatches == ()
    assert decision.applied == "90-0"


def test_refused_budget_ends_the_run_with_the_limits_words() -> None:
    run = Replay(step("a"), limits={"tokens": 10})

    run.happen(EventKind.REFUSED, "0", account="root", meter="tokens", asked="11", free="10")

    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert (run.error["type"], run.error["message"]) == ("UsageLimitExceededError", "Token limit of 10 exceeded")


def test_overrun_ends_the_run_but_keeps_the_step() -> None:
    run = Replay(step("a"), step("b"), limits={"cost_nanousd": 1_500_000_000})

    run.succeed("0", overrun="cost_nanousd=5", usage="cost_nanousd=1500000005")

    assert run.status is RunStatus.FAILED
    assert run.error is not None
    assert run.error["message"] == "Cost limit of $1.5 exceeded"
    assert run.nodes["0"].status is NodeStatus.SUCCEEDED


def test_cancel_ends_the_run_and_later_events_do_nothing() -> None:
    run = Replay(step("a"), step("b"))

    run.happen(EventKind.CANCELLED, "root", reason="enough")
    assert run.status is RunStatus.CANCELLED
    run.succeed("0")

    assert run.dispatched() == []


def test_budget_is_split_evenly_and_every_branch_end_gives_back() -> None:
    run = Replay(parallel(step("x"), step("y"), step("z")), limits={"tokens": 100})

    (split,) = run.last.splits
    assert (split.path, split.chain, split.share.total, split.share.base, split.share.remainder) == (
        "0",
        ("root",),
        100,
        33,
        1,
    )
    run.succeed("0.1.0")

    assert [end.chain for end in run.last.branch_ends] == [("0.1", "root")]
    terms = [dispatch.terms for dispatch in Replay(parallel(step("x", estimate={"tokens": 5}))).last.dispatches]
    assert terms == ["3610000;charge;0.0 root;tokens=5;input"]


def test_more_branches_than_one_script_may_write_open_in_slices() -> None:
    count = MOST_DISPATCHES * 2 + 3
    node = parallel(*(step("x") for _ in range(count)))
    run = Replay.__new__(Replay)
    run.spec, run.limits, run.nodes, run.status = PipelineSpec(name="p", root=sequence(node)), {}, {}, RunStatus.RUNNING
    run.error, run.has_context, run.number = None, False, 0
    event = Event(id="1-0", kind=EventKind.CREATED, path="root")
    seen: list[str] = []

    sizes = []
    for _ in range(3):
        decision = run.decide(event)
        run.apply(decision)
        seen += [dispatch.path for dispatch in decision.dispatches]
        sizes.append((len(decision.dispatches), decision.incomplete, decision.applied))

    assert sizes == [(MOST_DISPATCHES, True, ""), (MOST_DISPATCHES, True, ""), (3, False, "1-0")]
    assert seen == [f"0.{index}.0" for index in range(count)]
    assert run.nodes["0"].pending == count


def test_the_join_before_a_sliced_parallel_is_counted_once() -> None:
    wide = parallel(*(step("x") for _ in range(MOST_DISPATCHES + 1)))
    run = Replay(parallel(step("a"), step("b")), wide)

    run.succeed("0.0.0")
    run.succeed("0.1.0")

    assert run.nodes["0"].pending == 0
    assert run.nodes["1"].opened == MOST_DISPATCHES + 1


def test_contexts_of_branches_are_merged_by_a_control_step() -> None:
    run = Replay(parallel(step("x", uses_context=True), step("y")), step("c", uses_context=True), has_context=True)
    run.succeed("0.0.0", context="delta")
    event = run.event(EventKind.SUCCEEDED, "0.1.0", data="{}")
    assert advance(run.view("0.1.0"), [event]).missing == ("0.0",)

    decision = run.decide(event)
    run.apply(decision)
    task = task_of(decision)
    assert (decision.dispatches[0].path, task.control) == ("0!merge", "merge")
    assert task.branches == {"b0": ("ctx:root", "ctx:0.0.0"), "b1": ("ctx:root",)}

    run.succeed("0!merge", context="snapshot")
    assert task_of(run.last).context == ("ctx:0!merge",)


def test_a_merge_conflict_fails_the_run() -> None:
    run = Replay(parallel(step("x", uses_context=True), step("y")), has_context=True)
    run.succeed("0.0.0", context="delta")
    run.succeed("0.1.0")

    run.fail("0!merge", retryable=False)

    assert run.status is RunStatus.FAILED


def test_context_deltas_gather_until_a_snapshot() -> None:
    run = Replay(
        step("a", uses_context=True), step("b", uses_context=True), step("c", uses_context=True), has_context=True
    )

    run.succeed("0", context="delta")
    assert task_of(run.last).context == ("ctx:root", "ctx:0")
    run.succeed("1", context="snapshot")

    assert task_of(run.last).context == ("ctx:1",)


def test_usage_adds_up_over_attempts() -> None:
    run = Replay(step("a"))
    data = json_bytes({"error": {"type": "E", "message": ""}, "retryable": True}).decode()

    run.happen(EventKind.FAILED, "0", usage="tokens=3", data=data)
    run.succeed("0", usage="tokens=4")

    assert run.nodes["0"].usage == {"tokens": 7}


def test_where_several_meters_are_over_cost_is_named() -> None:
    run = Replay(step("a"), limits={"tokens": 10, "cost_nanousd": 1_000_000_000})

    run.succeed("0", overrun="tokens=5 cost_nanousd=5", usage="tokens=15 cost_nanousd=1000000005")

    assert run.error is not None
    assert run.error["message"] == "Cost limit of $1 exceeded"


@pytest.mark.parametrize("outcome", [EventKind.SUCCEEDED, EventKind.FAILED])
def test_a_cancel_that_is_read_with_the_last_outcome_wins(outcome: EventKind) -> None:
    """The gate was closed before anybody stored an end, so only the cancel can be stored."""
    run = Replay(step("a", retry=RetrySpec(retries=0)))
    data = '{"error":{"type":"ValueError","message":"no"}}'
    events = [run.event(outcome, "0", data=data), run.event(EventKind.CANCELLED, "root", reason="enough")]

    decision = advance(run.view("0"), events)

    assert decision.status is RunStatus.CANCELLED
    assert decision.error is not None
    assert decision.applied == events[-1].id
    assert decision.nodes["0"].status.ended


def test_a_refusal_names_step_account_and_amounts() -> None:
    run = Replay(step("a"), limits={"tokens": 10})

    run.happen(EventKind.REFUSED, "0", account="root", meter="tokens", asked="50", free="10")

    assert run.error is not None
    assert run.error["message"] == "Token limit of 10 exceeded"
    assert run.error["suggestion"] == (
        "(run r, step 'a' at 0: it asked for 50 tokens, account root had 10 tokens free; total_tokens_limit of the run is 10 tokens) "
        "Raise total_tokens_limit of the run's usage_limits (--budget-tokens), or lower what the step expects (expected_tokens)."
    )
    assert run.error["data"]["limit_name"] == "total_tokens_limit of the run"
    assert run.error["data"]["limit"] == 10


@pytest.mark.parametrize(
    ("limits", "own", "fields", "message", "name", "remedy"),
    [
        (
            {"cost_nanousd": 1_500_000},
            {},
            {"account": "root", "meter": "cost_nanousd", "asked": "2000000", "free": "1500000"},
            "Cost limit of $0.0015 exceeded",
            "total_cost_usd_limit of the run",
            "it asked for $0.002, account root had $0.0015 free; total_cost_usd_limit of the run is $0.0015) Raise "
            "total_cost_usd_limit of the run's usage_limits (--budget-usd), or lower what the step expects (expected_cost_usd).",
        ),
        (
            {"pages": 3},
            {},
            {"account": "root", "meter": "pages", "asked": "4", "free": "3"},
            "Limit of 3 pages exceeded",
            "meters['pages'] of the run",
            "Raise meters['pages'] of the run's usage_limits (--budget pages=N), or lower what the step expects (expected_meters).",
        ),
        (
            {"tokens": 100},
            {"tokens": 5},
            {"overrun": "tokens=2"},
            "Token limit of 5 exceeded",
            "total_tokens_limit of the step",
            "it used 7 tokens, account 0 had 5 tokens for it; total_tokens_limit of the step is 5 tokens) Raise total_tokens_limit "
            "of the step's usage_limits, or what the step expects (expected_tokens), so that it is refused before it starts.",
        ),
        (
            {},
            {},
            {"account": "team", "meter": "cost_nanousd", "asked": "2000000", "free": "0", "limit": "1000000"},
            "Cost limit of $0.001 exceeded",
            "the cost limit of account team",
            "Raise it with `flujo accounts set team`, wait for its next window, or define it with --wait, or lower",
        ),
    ],
)
def test_an_exceeded_limit_names_the_option_that_holds_it_and_what_to_do(
    limits: dict[str, int], own: dict[str, int], fields: dict[str, str], message: str, name: str, remedy: str
) -> None:
    run = Replay(step("a", usage_limits=own), limits=limits)

    run.happen(EventKind.REFUSED if "asked" in fields else EventKind.SUCCEEDED, "0", usage="tokens=7", **fields)

    assert run.error is not None
    assert run.error["message"] == message
    assert run.error["data"]["limit_name"] == name
    assert remedy in run.error["suggestion"]


def test_a_step_that_aborts_ends_the_run_as_aborted_with_its_spend() -> None:
    run = Replay(step("a"), step("b"), limits={"tokens": 9})

    error = {"type": "PipelineAbortSignal", "message": "stop", "data": {}}
    run.happen(EventKind.ABORTED, "0", data=json_bytes({"error": error}).decode(), usage="tokens=3")

    assert (run.status, run.error) == (RunStatus.ABORTED, error)
    assert (run.nodes["0"].status, run.nodes["0"].usage) == (NodeStatus.FAILED, {"tokens": 3})


def test_an_abort_of_an_earlier_attempt_ends_nothing() -> None:
    run = Replay(step("a"))
    late = run.event(EventKind.ABORTED, "0", data='{"error":{"type":"PipelineAbortSignal","message":"stop"}}')
    run.lose("0")

    assert run.decide(late).status is RunStatus.RUNNING


def test_a_hooks_abort_ends_the_run_and_keeps_what_is_committed() -> None:
    run = Replay(step("a"), step("b"))
    run.succeed("0")

    run.happen(EventKind.CANCELLED, "root", reason="enough", status="aborted")

    assert (run.status, (run.error or {})["type"]) == (RunStatus.ABORTED, "PipelineAbortSignal")
    assert run.nodes["0"].status is NodeStatus.SUCCEEDED
