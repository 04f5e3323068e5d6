"""Accounts as they are read from a run's hash; that scripts keep them so is shown in tests/lua."""

from __future__ import annotations

import pytest

from flujo_client.protocol.accounts import AccountRow, account_above, read_accounts


def test_branches_that_were_never_touched_have_their_share() -> None:
    fields = {
        "meters": "tokens",
        "root|tokens": "100 0 0 0 100 0 30 0 0 0",
        "life|root": "2 2 open",
        "split|1|tokens": "0 3 33 1",
        "1.1|tokens": "33 10 20 0 0 0 0 0 0 0",
        "total|tokens": "20",
    }

    rows = read_accounts(fields)

    assert [(row.account, row.granted, row.free, row.use) for row in rows] == [
        ("root", 100, 0, 30),
        ("1.0", 34, 34, 0),
        ("1.1", 33, 3, 30),
        ("1.2", 33, 33, 0),
    ]


@pytest.mark.parametrize(
    "split",
    [
        {"split|0|tokens": "0 w", "split|0|tokens|0": "7 2", "split|0|tokens|1": "1"},
        {"split|0|tokens": "0 w 7 2 1"},  # as it was stored before
    ],
)
def test_weighted_shares_are_those_that_were_given(split: dict[str, str]) -> None:
    rows = read_accounts({"root|tokens": "10 0 0 0 10 0 0 0 0 0", **split})

    assert [(row.account, row.granted) for row in rows[1:]] == [("0.0", 7), ("0.1", 2), ("0.2", 1)]


def test_what_was_pooled_above_is_gone_below_before_a_script_has_noted_it() -> None:
    fields = {
        "root|tokens": "100 0 0 0 40 0 40 1 0 0",
        "split|1|tokens": "0 2 50 0",
        "1.0|tokens": "50 10 0 0 40 0 30 0 0 0",
        "split|1.0.1|tokens": "0 1 40 0",
        "1.0.1.0|tokens": "40 30 0 0 0 0 0 0 0 0",
    }

    rows = {row.account: row for row in read_accounts(fields)}

    assert [(path, row.granted, row.free) for path, row in rows.items()] == [
        ("root", 100, 60),
        ("1.0", 40, 0),
        ("1.0.1.0", 30, 0),
        ("1.1", 0, 0),
    ]
    assert rows["root"].children == sum(rows[path].granted for path in ("1.0", "1.1"))


def test_a_split_after_the_pooling_keeps_its_shares() -> None:
    fields = {"root|tokens": "100 0 0 0 100 0 0 1 0 0", "split|3|tokens": "1 2 50 0"}

    assert [row.granted for row in read_accounts(fields)] == [100, 50, 50]


def test_the_account_above_is_the_nearest_that_limits_the_meter() -> None:
    rows = {(name, "tokens"): AccountRow(name, "tokens", 1) for name in ("root", "1.0", "1.0.2")}

    found = [account_above(name, "tokens", rows) for name in ("1.0.2.3.1", "1.0.2", "2.1", "root")]

    assert [row.account if row else None for row in found] == ["1.0.2", "1.0", "root", None]
    assert account_above("1.0", "searches", rows) is None
