"""A dispatch that nobody leased: when it counts as lost."""

from __future__ import annotations

import pytest

from flujo_client.execution.redispatch import judge_dispatch


@pytest.mark.parametrize(
    ("published", "latest", "empty_before", "publish"),
    [
        (0, 0, None, True),  # waited for its time
        (1000, 3001, None, True),  # overtaken
        (1000, 3000, None, False),
        (1000, 0, 1001, True),  # seen empty twice since then
        (1000, 0, 900, False),  # seen empty once before it was published
        (1000, 0, None, False),  # still waiting
    ],
)
def test_when_a_dispatch_counts_as_lost(published: int, latest: int, empty_before: int | None, publish: bool) -> None:
    assert judge_dispatch(published, 1, latest, empty_before).publish is publish


def test_copies_grow_with_the_logarithm_of_the_wait() -> None:
    waits = [judge_dispatch(0, copies, 0, None).next_ms for copies in range(9)]

    assert waits == [3000, 4000, 6000, 10000, 18000, 34000, 62000, 62000, 62000]
