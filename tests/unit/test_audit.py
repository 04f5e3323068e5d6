"""What an audit finds: nothing in books that are right, and each figure that is not."""

from __future__ import annotations

import pytest

from flujo_client.audit import Difference, audit_accounts, audit_tree

ACCOUNTS = {
    "meters": "tokens",
    "root|tokens": "100 0 5 0 95 0 52 0 0 0",
    "split|1|tokens": "0 2 47 1",
    "1.0|tokens": "48 20 10 7 0 3 0 0 0 0",
    "1.1|tokens": "47 15 0 0 0 0 0 0 0 0",
    "total|tokens": "18",
}
ATTEMPTS = {
    "0|terms": "60000;charge;root;;input",
    "1.0.0|terms": "60000;charge;1.0.0~searches=3 1.0= root;tokens=20;input",
    "1.1.0|terms": "60000;charge;1.1 root;tokens=15;input",
    "claim|a|path": "0",
    "claim|a|phase": "committed",
    "claim|a|reserved": "",
    "claim|a|used": "tokens=5",
    "claim|b|path": "1.0.0",
    "claim|b|phase": "committed",
    "claim|b|reserved": "tokens=20",
    "claim|b|used": "tokens=13",
    "claim|b|overrun": "tokens=3",
    "claim|c|path": "1.0.0",
    "claim|c|phase": "lost",
    "claim|c|reserved": "tokens=7",
    "claim|c|unknown": "tokens=7",
    "claim|d|path": "1.0.0",
    "claim|d|phase": "held",
    "claim|d|reserved": "tokens=20",
    "claim|e|phase": "blocked",
    "claim|e|answer": "1.1 tokens 15 0",
}


def test_books_that_are_right_show_no_difference() -> None:
    assert list(audit_accounts("r", {"tokens": 100}, ACCOUNTS, ATTEMPTS, ["1.1.0"])) == []


@pytest.mark.parametrize(
    ("account", "row", "parts"),
    [
        ("1.0", "48 20 11 7 0 3 0 0 0 0", {"1.0 spent", "root held"}),
        ("1.0", "48 19 10 7 0 3 0 0 0 0", {"1.0 reserved", "root held"}),
        ("1.0", "48 20 10 7 0 2 0 0 0 0", {"1.0 overrun"}),
        ("1.0", "58 20 10 7 0 3 0 0 0 0", {"root children"}),
        ("root", "101 0 5 0 95 0 52 0 0 0", {"root granted"}),
        ("root", "90 0 5 0 95 0 52 0 0 0", {"root granted", "root free"}),
    ],
)
def test_each_figure_that_does_not_follow_is_named(account: str, row: str, parts: set[str]) -> None:
    stored = {**ACCOUNTS, f"{account}|tokens": row}

    found = list(audit_accounts("r", {"tokens": 100}, stored, ATTEMPTS, ["1.1.0"]))

    assert {f"{difference.account} {difference.part}" for difference in found} == parts


def test_a_total_that_differs_and_a_reservation_that_nobody_holds_are_named() -> None:
    found = list(audit_accounts("r", {"tokens": 100}, {**ACCOUNTS, "total|tokens": "17"}, ATTEMPTS, []))

    assert Difference("r", "run", "tokens", "total", 17, 18) in found
    assert Difference("r", "1.1", "tokens", "reserved", 15, 0) in found


def test_what_a_fork_began_with_needs_no_claims() -> None:
    stored = {"meters": "tokens", "root|tokens": "100 0 40 0 0 0 0 0 0 0", "total|tokens": "40", "forked|tokens": "35"}
    attempts = {
        "3|terms": "60000;charge;root;;input",
        "claim|a|path": "3",
        "claim|a|phase": "committed",
        "claim|a|reserved": "",
        "claim|a|used": "tokens=5",
    }

    assert list(audit_accounts("r", {"tokens": 100}, stored, attempts, [])) == []
    assert list(audit_accounts("r", {"tokens": 100}, {**stored, "forked|tokens": "34"}, attempts, [])) == [
        Difference("r", "root", "tokens", "spent", 40, 39),
        Difference("r", "run", "tokens", "total", 40, 39),
    ]


def test_a_fork_that_cost_more_than_its_limit_has_spent_the_limit() -> None:
    stored = {"meters": "tokens", "root|tokens": "30 0 30 0 0 0 0 0 0 0", "total|tokens": "35", "forked|tokens": "35"}

    assert list(audit_accounts("r", {"tokens": 30}, stored, {}, [])) == []


def test_a_total_that_nobody_used_is_named() -> None:
    assert list(audit_accounts("r", {}, {"total|pages": "3"}, {}, [])) == [
        Difference("r", "run", "pages", "total", 3, 0)
    ]


def test_where_the_attempts_are_gone_the_accounts_are_held_against_each_other() -> None:
    assert list(audit_tree("r", {"tokens": 100}, ACCOUNTS)) == []

    found = audit_tree("r", {"tokens": 100}, {**ACCOUNTS, "1.0|tokens": "58 20 10 7 0 3 0 0 0 0"})
    assert [f"{difference.account} {difference.part}" for difference in found] == ["root children"]


def test_where_the_attempts_are_gone_the_accounts_are_held_against_the_totals() -> None:
    spent = {"root|tokens": "100 0 40 0 0 0 0 0 0 0"}
    forked = {"root|tokens": "30 0 30 0 0 0 0 0 0 0", "total|tokens": "35", "forked|tokens": "35"}

    assert list(audit_tree("r", {"tokens": 100}, {**spent, "total|tokens": "40", "total|pages": "3"})) == []
    assert list(audit_tree("r", {"tokens": 30}, forked)) == []
    assert list(audit_tree("r", {"tokens": 100}, {**spent, "total|tokens": "20"})) == [
        Difference("r", "run", "tokens", "total", 20, 40)
    ]
