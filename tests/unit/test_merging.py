"""Contexts of branches become one: in declared order, by rules."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client.protocol.errors import ContextMergeError
from flujo_client.protocol.merging import MergeRules, merge_contexts

UPDATE = MergeRules("context_update")


@pytest.mark.parametrize(
    ("strategy", "one", "other", "merged"),
    [
        ("context_update", {"n": 3}, {"n": 5}, {"n": 7}),  # 1 + 2 + 4
        ("context_update", {"n": 1, "l": [1]}, {"n": 1, "l": [2]}, {"n": 1, "l": [1, 2]}),
        ("context_update", {"n": 1, "d": {"x": 1}}, {"n": 1, "d": {"y": 2}}, {"n": 1, "d": {"x": 1, "y": 2}}),
        ("context_update", {"n": 1, "f": True}, {"n": 1, "f": False}, {"n": 1, "f": True}),
        ("overwrite", {"n": 3}, {"n": 5}, {"n": 5}),
        ("overwrite", {"n": 1, "d": {"x": 1}}, {"n": 1, "d": {"y": 2}}, {"n": 1, "d": {"y": 2}}),
        ("keep_first", {"n": 3}, {"n": 5}, {"n": 3}),
        ("keep_first", {"n": 1, "d": {"x": 1}}, {"n": 1, "d": {"x": 2, "y": 2}}, {"n": 1, "d": {"x": 1, "y": 2}}),
        ("error_on_conflict", {"n": 3}, {"n": 1}, {"n": 3}),
    ],
)
def test_branches_merge_in_declared_order(
    strategy: str, one: dict[str, Any], other: dict[str, Any], merged: dict[str, Any]
) -> None:
    assert merge_contexts({"n": 1}, {"a": one, "b": other}, MergeRules(strategy)) == merged


@pytest.mark.parametrize("strategy", ["overwrite", "error_on_conflict", "context_update", "keep_first"])
def test_outputs_of_steps_in_every_branch_are_kept(strategy: str) -> None:
    branches = {"a": {"step_outputs": {"x": 1}}, "b": {"step_outputs": {"y": 2}}}

    merged = merge_contexts({"step_outputs": {}}, branches, MergeRules(strategy))

    assert merged == {"step_outputs": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("rules", "values"),
    [
        (UPDATE, ("x", "y")),
        (MergeRules("error_on_conflict"), ("x", "y")),
        (MergeRules("error_on_conflict"), ([1], [2])),
        (MergeRules("context_update", numbers="conflict"), (1, 2)),
    ],
)
def test_a_conflict_names_the_key_both_branches_and_both_values(rules: MergeRules, values: tuple[Any, Any]) -> None:
    branches = {"a": {"s": values[0]}, "b": {"s": values[1]}}

    with pytest.raises(ContextMergeError) as caught:
        merge_contexts({}, branches, rules)

    text = str(caught.value)
    assert text.startswith("Merge conflict for key 's'. Branches 'a' and 'b' set different values.")
    assert f"'a': {values[0]!r}, 'b': {values[1]!r}" in text
    assert caught.value.data["branches"] == ["a", "b"]


def test_a_conflict_inside_names_the_whole_place() -> None:
    branches = {"a": {"d": {1: {"x": "p"}}}, "b": {"d": {1: {"x": "q"}}}}

    with pytest.raises(ContextMergeError, match=r"key 'd\.1\.x'"):
        merge_contexts({"d": {}}, branches, UPDATE)


def test_what_every_run_sets_by_itself_is_no_conflict() -> None:
    branches = {"a": {"run_id": "x", "status": "s", "n": 1}, "b": {"run_id": "y", "status": "t", "n": 1}}

    merged = merge_contexts({"run_id": "r", "n": 1}, branches, MergeRules("error_on_conflict"))

    assert merged == {"run_id": "r", "n": 1}


@pytest.mark.parametrize("strategy", ["context_update", "error_on_conflict"])
def test_two_branches_that_agree_are_no_conflict(strategy: str) -> None:
    branches = {"a": {"s": "x", "d": {"s": "x"}}, "b": {"s": "x", "d": {"s": "x"}}}

    assert merge_contexts({}, branches, MergeRules(strategy)) == {"s": "x", "d": {"s": "x"}}


def test_numbers_that_both_branches_set_afresh_add_up() -> None:
    assert merge_contexts({}, {"a": {"n": 2}, "b": {"n": 2}}, UPDATE) == {"n": 4}


def test_the_larger_number_wins_where_that_is_asked_for() -> None:
    branches = {"a": {"n": 5}, "b": {"n": 3}, "c": {"n": 4}}

    assert merge_contexts({"n": 1}, branches, MergeRules("context_update", numbers="max")) == {"n": 5}


def test_a_dict_that_replaces_another_kind_of_value_is_merged_from_nothing() -> None:
    merged = merge_contexts({"d": 1}, {"a": {"d": {"x": 1}}, "b": {"d": {"y": 1}}}, UPDATE)

    assert merged == {"d": {"x": 1, "y": 1}}


def test_a_mapping_says_what_counts_before_anything_can_conflict() -> None:
    branches = {"a": {"s": "x", "t": "x"}, "b": {"s": "y", "u": "y"}, "c": {"v": "z"}}

    merged = merge_contexts({}, branches, MergeRules("error_on_conflict", field_mapping={"a": ["s"], "b": ["u"]}))

    assert merged == {"s": "x", "u": "y", "v": "z"}


def test_only_what_a_branch_changed_in_what_it_was_given_counts() -> None:
    branches = {"a": {"seen": 0, "kept": 2}, "b": {"seen": 0, "kept": 1}}

    merged = merge_contexts({"seen": 9, "kept": 1}, branches, UPDATE, given={"seen": 0, "kept": 1})

    assert merged == {"seen": 9, "kept": 2}
