"""The oracle finds what it is there for: each invariant broken by hand is named."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.oracle import (
    Excuses,
    Given,
    Story,
    goes_on_ms,
    judge_accounts,
    judge_answers,
    judge_cancel,
    judge_run,
    parts_of,
    recoveries_ms,
)

ACCOUNTS: dict[str, int] = {
    "root|tokens|granted": 100,
    "root|tokens|spent": 8,
    "total|tokens": 8,
}


def _event(number: int, kind: str, path: str = "", nonce: str = "") -> tuple[str, dict[str, str]]:
    return f"{1000 + 100 * number}-0", {"kind": kind, "path": path, "nonce": nonce}


def _entry(kind: str, path: str, nonce: str, at_ms: int, pid: int = 1, **facts: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "run_id": "r",
        "path": path,
        "attempt": 1,
        "nonce": nonce,
        "pid": pid,
        "at_ms": at_ms,
        **facts,
    }


def _story() -> Story:
    events = [
        _event(0, "created"),
        _event(1, "succeeded", "0", "n0"),
        _event(3, "succeeded", "1", "n1"),
        _event(4, "finished"),
    ]
    payloads = {"out:0": b'j{"maker": ["0", "n0"]}', "out:1": b'j{"maker": ["1", "n1"]}'}
    return Story("r", {"status": "completed", "final": "1"}, events, dict(ACCOUNTS), payloads)


def _ledger() -> list[dict[str, Any]]:
    return [
        _entry("started", "0", "n0", 1050, saw=[["", ""]]),
        _entry("bill", "0", "n0", 1060, tokens=4),
        _entry("started", "1", "n1", 1200, saw=[["0", "n0"]]),
        _entry("bill", "1", "n1", 1210, tokens=4),
    ]


def test_a_run_as_it_should_be_is_found_so() -> None:
    assert judge_run(_story(), _ledger(), Excuses()) == []


def test_a_run_that_has_not_ended_is_found() -> None:
    story = _story()
    story.record["status"] = "running"

    assert judge_run(story, _ledger(), Excuses())[0].startswith("I1")


def test_a_second_commit_is_found() -> None:
    story = _story()
    story.events.insert(3, _event(3, "succeeded", "1", "n2"))

    assert any(told.startswith("I2") for told in judge_run(story, _ledger(), Excuses()))


def test_another_attempts_output_is_found() -> None:
    story = _story()
    story.payloads["out:1"] = b'j{"maker": ["1", "n9"]}'

    assert [told[:2] for told in judge_run(story, _ledger(), Excuses())] == ["I2"]


@pytest.mark.parametrize(
    ("at_ms", "saw"), [(1200, [["0", "n9"]]), (1050, [["0", "n0"]])], ids=["losing attempt", "too early"]
)
def test_an_input_that_was_not_committed_is_found(at_ms: int, saw: list[list[str]]) -> None:
    ledger = _ledger()
    ledger[2] |= {"saw": saw, "at_ms": at_ms}

    assert [told[:2] for told in judge_run(_story(), ledger, Excuses())] == ["I3"]


def test_a_bill_after_the_commit_is_found_and_excused_only_in_a_zombie() -> None:
    story, ledger = _story(), _ledger()
    story.accounts |= {"root|tokens|spent": 12, "total|tokens": 12}
    ledger += [
        _entry("started", "0", "n9", 1070, pid=2, saw=[["", ""]]),
        _entry("bill", "0", "n9", 1500, pid=2, tokens=4),
    ]

    assert {told[:2] for told in judge_run(story, ledger, Excuses())} == {"I2", "I6"}
    assert {told[:2] for told in judge_run(story, ledger, Excuses(pids={2}))} == {"I6"}
    assert judge_run(story, ledger, Excuses(pids={2}, paused={2})) == []


def test_a_charge_without_a_bill_is_found() -> None:
    story = _story()
    story.accounts |= {"root|tokens|spent": 9, "total|tokens": 9}

    assert [told[:2] for told in judge_run(story, _ledger(), Excuses())] == ["I5"]


def test_a_bill_that_nobody_knows_of_is_found() -> None:
    ledger = [*_ledger(), _entry("bill", "1", "n1", 1211, tokens=4)]

    assert [told[:2] for told in judge_run(_story(), ledger, Excuses())] == ["I5"]


@pytest.mark.parametrize(
    "change", [{"root|tokens|spent": 101}, {"1.0|tokens|granted": 5}, {"root|tokens|reserved": -1}]
)
def test_accounts_that_do_not_add_up_are_found(change: dict[str, int]) -> None:
    assert [told[:2] for told in judge_accounts(ACCOUNTS | change, "r")] == ["I4"]


def test_accounts_are_judged_as_the_scripts_keep_them() -> None:
    """A row is the numbers granted, reserved, spent, unknown, children, overrun, held, pool, seen, closed."""
    fields = {
        "meters": "tokens",
        "root|tokens": "100 0 8 0 90 0 0 0 0 0",
        "split|1|tokens": "0 2 45 0",
        "total|tokens": "8",
    }

    parts = parts_of(fields)

    assert (parts["root|tokens|granted"], parts["1.1|tokens|granted"], parts["total|tokens"]) == (100, 45, 8)
    assert judge_accounts(parts, "r") == []
    assert judge_accounts(parts_of(fields | {"root|tokens": "100 0 12 0 90 0 0 0 0 0"}), "r")[0].startswith("I4")


def test_a_limit_without_an_account_is_found() -> None:
    """So that an oracle which cannot read the accounts any more says so, instead of finding them in order."""
    story = _story()
    story.record["limits"] = "tokens=100"
    story.accounts = {"total|tokens": 8}

    assert [told[:2] for told in judge_run(story, _ledger(), Excuses())] == ["I5"]


def test_what_happens_after_a_cancel_is_found() -> None:
    story = _story()
    story.record["status"] = "cancelled"

    assert list(judge_cancel(story, _ledger(), 1400, Excuses())) == []
    assert {told[:2] for told in judge_cancel(story, _ledger(), 1250, Excuses())} == {"I8"}  # a commit
    late = [_entry("started", "1", "n1", 9000, pid=2)]
    assert {told[:2] for told in judge_cancel(story, late, 1400, Excuses())} == {"I8"}
    assert list(judge_cancel(story, late, 1400, Excuses(paused={2}))) == []
    story.record["status"] = "completed"
    assert {told[:2] for told in judge_cancel(story, _ledger(), 1400, Excuses())} == {"I8"}


def _answered(*by: str) -> Story:
    events = [_event(number, "answered", "1") for number, _ in enumerate(by)]
    return Story("r", {"status": "completed"}, events, {}, {})


@pytest.mark.parametrize(
    ("story", "given", "seen"),
    [
        (_answered("ann"), [Given("r", "ann", True), Given("r", "bob", True)], "ann"),
        (_answered("ann", "bob"), [Given("r", "ann", True), Given("r", "bob", False, "too late")], "ann"),
        (_answered("ann"), [Given("r", "ann", True), Given("r", "bob", False, "too late")], "bob"),
        (_answered("ann"), [Given("r", "ann", True), Given("r", "bob", False)], "ann"),
        (_answered(), [Given("r", "ann", False, "too late")], ""),
        (_answered("ann"), [Given("r", "ann", True)], ""),
    ],
    ids=["two accepted", "two stored", "the loser's", "not told", "nobody", "never used"],
)
def test_an_answer_that_is_lost_or_doubled_is_found(story: Story, given: list[Given], seen: str) -> None:
    ledger = [_entry("started", "2", "n2", 1500, answer=seen)] if seen else []

    assert {told[:3] for told in judge_answers(story, ledger, given)} == {"I10"}


def test_one_answer_that_is_used_is_found_in_order() -> None:
    given = [Given("r", "ann", True), Given("r", "bob", False, "too late")]

    assert list(judge_answers(_answered("ann"), [_entry("started", "2", "n2", 1500, answer="ann")], given)) == []


def test_events_out_of_order_are_found() -> None:
    story = _story()
    story.events.append(_event(2, "lost", "0", "n7"))

    assert {told[:2] for told in judge_run(story, _ledger(), Excuses())} == {"I9"}


def test_a_run_goes_on_after_a_managers_death_with_its_next_start() -> None:
    ledger = [_entry("started", "0", "n1", 1000, pid=1, saw=[])]
    ledger += [_entry("started", "1", "n2", 1900, pid=1, saw=[]), _entry("started", "2", "n3", 2500, pid=1, saw=[])]

    assert goes_on_ms(ledger, 1400) == [500]
    assert goes_on_ms(ledger, 2500) == []


def test_the_recovery_of_a_step_is_from_the_death_to_its_next_start() -> None:
    ledger = [*_ledger(), _entry("started", "0", "n5", 4050, pid=3, saw=[]) | {"attempt": 2}]

    assert recoveries_ms(ledger, {1: 1100}) == [2950]
