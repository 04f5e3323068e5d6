"""How much of a named account a shard may hold, as a table."""

from __future__ import annotations

import pytest

from flujo_client.execution.slab_sizes import even_share, kept_free, most_wanted


@pytest.mark.parametrize(
    ("limit", "shards", "share", "kept"),
    [(100, 2, 50, 12), (100, 1, 100, 25), (60, 4, 15, 3), (8, 2, 4, 1), (7, 2, 3, 0), (3, 4, 0, 0), (1, 2, 0, 0)],
)
def test_a_shard_keeps_a_quarter_of_its_even_share_free_and_rounds_down(
    limit: int, shards: int, share: int, kept: int
) -> None:
    assert even_share({"tokens": limit}, shards) == {"tokens": share}
    assert kept_free({"tokens": limit}, shards) == {"tokens": kept}


@pytest.mark.parametrize(
    ("limit", "asked", "most"),
    [(100, 1, 13), (100, 40, 52), (100, 95, 100), (100, 300, 100), (3, 1, 1)],
)
def test_a_shard_asks_for_what_is_needed_and_something_for_who_comes_next(limit: int, asked: int, most: int) -> None:
    assert most_wanted({"tokens": limit}, 2, {"tokens": asked}) == {"tokens": most}


def test_nothing_is_asked_of_meters_that_the_account_does_not_limit_or_that_nobody_needs() -> None:
    assert most_wanted({"tokens": 100, "slots": 8}, 2, {"slots": 2, "pages": 5}) == {"slots": 3}
