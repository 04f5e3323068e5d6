"""Contexts: folded from deltas, merged from branches."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client.protocol.context import delta_between, fold_context, merge_contexts, snapshot_of
from flujo_client.protocol.errors import (
    ContextMergeError,
)


def test_context_folds_deltas_over_its_snapshot() -> None:
    before, after = {"a": 1, "b": 2}, {"a": 1, "c": [3]}

    delta = delta_between(before, after)

    assert delta == {"set": {"c": [3]}, "unset": ["b"]}
    assert fold_context([snapshot_of(before), delta]) == after
    assert delta_between(after, after) is None


@pytest.mark.parametrize(
    ("strategy", "one", "other", "merged"),
    [
        ("context_update", {"n": 3}, {"n": 5}, {"n": 7}),  # 1 + 2 + 4
        ("context_update", {"n": 1, "l": [1]}, {"n": 1, "l": [2]}, {"n": 1, "l": [1, 2]}),
        ("context_update", {"n": 1, "d": {"x": 1}}, {"n": 1, "d": {"y": 2}}, {"n": 1, "d": {"x": 1, "y": 2}}),
        ("context_update", {"n": 1, "f": True}, {"n": 1, "f": False}, {"n": 1, "f": True}),
        ("overwrite", {"n": 3}, {"n": 5}, {"n": 5}),
        ("keep_first", {"n": 3}, {"n": 5}, {"n": 3}),
        ("error_on_conflict", {"n": 3}, {"n": 1}, {"n": 3}),
    ],
)
def test_branches_merge_in_declared_order(
    strategy: str, one: dict[str, Any], other: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert merge_contexts({"n": 1}, {"a": one, "b": other}, strategy) == merged


@pytest.mark.parametrize("strategy", ["context_update", "error_on_conflict"])
def test_a_conflict_names_the_key_both_branches_and_both_values(strategy: str) -> None:
    with pytest.raises(ContextMergeError) as caught:
        merge_contexts({}, {"a": {"s": "x"}, "b": {"s": "y"}}, strategy)

    for part in ("'s'", "'a'", "'b'", "'x'", "'y'"):
        assert part in str(caught.value)


def test_a_fold_is_a_copy() -> None:
    payload = snapshot_of({"list": [1]})

    fold_context([payload])["list"].append(2)

    assert payload["set"]["list"] == [1]


def test_what_every_run_sets_by_itself_is_no_conflict() -> None:
    branches = {"a": {"run_id": "x", "status": "s", "n": 1}, "b": {"run_id": "y", "status": "t", "n": 1}}

    assert merge_contexts({"run_id": "r", "n": 1}, branches, "error_on_conflict") == {"run_id": "r", "n": 1}


@pytest.mark.parametrize("strategy", ["context_update", "error_on_conflict"])
def test_two_branches_that_agree_are_no_conflict(strategy: str) -> None:
    assert merge_contexts({}, {"a": {"s": "x"}, "b": {"s": "x"}}, strategy) == {"s": "x"}


def test_numbers_that_both_branches_set_afresh_add_up() -> None:
    assert merge_contexts({}, {"a": {"n": 2}, "b": {"n": 2}}, "context_update") == {"n": 4}


def test_a_dict_that_replaces_another_kind_of_value_is_merged_from_nothing() -> None:
    merged = merge_contexts({"d": 1}, {"a": {"d": {"x": 1}}, "b": {"d": {"y": 1}}}, "context_update")

    assert merged == {"d": {"x": 1, "y": 1}}
