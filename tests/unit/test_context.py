"""Contexts: folded from snapshots and deltas."""

from __future__ import annotations

from flujo_client.protocol.context import delta_between, fold_context, snapshot_of


def test_context_folds_deltas_over_its_snapshot() -> None:
    before, after = {"a": 1, "b": 2}, {"a": 1, "c": [3]}

    delta = delta_between(before, after)

    assert delta == {"set": {"c": [3]}, "unset": ["b"]}
    assert fold_context([snapshot_of(before), delta]) == after
    assert delta_between(after, after) is None


def test_a_fold_is_a_copy() -> None:
    payload = snapshot_of({"list": [1]})

    fold_context([payload])["list"].append(2)

    assert payload["set"]["list"] == [1]
