"""`Quota`: the arithmetic that its users know."""

from __future__ import annotations

import math
import pickle

import pytest

from flujo_client.protocol.errors import ConfigurationError, QuotaExceededError
from flujo_client.protocol.quota import (
    Quota,
    UsageEstimate,
    UsageLimits,
    amounts_text,
    parse_amounts,
    share_evenly,
    to_nano_usd,
)


def estimate(cost: float, tokens: int) -> UsageEstimate:
    return UsageEstimate(cost_usd=cost, tokens=tokens)


def test_reserve_takes_all_or_nothing() -> None:
    quota = Quota(1.0, 10)

    assert not quota.reserve(estimate(0.5, 11))
    assert quota.get_remaining() == (1.0, 10)
    assert quota.reserve(estimate(1.0, 10))
    assert quota.get_remaining() == (0.0, 0)
    assert quota.reserve(estimate(0, 0))


def test_negative_amounts_count_as_zero() -> None:
    quota = Quota(1.0, 10)

    assert quota.reserve(estimate(-5, -5))
    assert quota.get_remaining() == (1.0, 10)


def test_reclaim_refunds_what_was_not_used() -> None:
    quota = Quota(1.0, 10)
    quota.reserve(estimate(0.4, 4))

    quota.reclaim(estimate(0.4, 4), estimate(0.1, 1))

    assert quota.get_remaining() == (0.9, 9)


def test_reclaim_of_an_overage_that_is_not_covered_empties_that_meter_and_raises() -> None:
    quota = Quota(1.0, 10)
    quota.reserve(estimate(0.4, 4))

    with pytest.raises(QuotaExceededError) as caught:
        quota.reclaim(estimate(0.4, 4), estimate(3.0, 5))

    assert quota.get_remaining() == (0.0, 5)
    assert (caught.value.extra_cost_usd, caught.value.extra_tokens) == (2.6, 0)
    assert (caught.value.remaining_cost_usd, caught.value.remaining_tokens) == (0.6, 6)


def test_unlimited_cost_is_never_taken_from() -> None:
    quota = Quota(math.inf, 10)

    assert quota.reserve(estimate(1e6, 1))
    quota.refund(estimate(5, 1))

    assert quota.get_remaining() == (math.inf, 10)


def test_split_hands_out_everything_with_the_remainder_to_the_lowest() -> None:
    quota = Quota(3.0, 10)

    children = quota.split(3)

    assert [child.get_remaining() for child in children] == [(1.0, 4), (1.0, 3), (1.0, 3)]
    assert quota.get_remaining() == (0.0, 0)


def test_split_keeps_unlimited_cost_on_both_sides_and_splits_the_token_sentinel() -> None:
    quota = Quota(math.inf)

    one, other = quota.split(2)

    assert (one.get_remaining(), other.get_remaining()) == ((math.inf, 1073741824), (math.inf, 1073741823))
    assert quota.get_remaining()[0] == math.inf


@pytest.mark.parametrize("count", [0, -1])
def test_split_into_nothing_is_refused(count: int) -> None:
    quota = Quota(1.0, 10)

    with pytest.raises(ValueError, match="cannot split"):
        quota.split(count)
    assert quota.get_remaining() == (1.0, 10)


@pytest.mark.parametrize("count", [0, -1])
def test_an_amount_cannot_be_shared_by_nobody(count: int) -> None:
    with pytest.raises(ValueError, match="cannot split"):
        share_evenly(5, count)


def test_split_by_weights_hands_out_everything_and_keeps_what_is_unlimited() -> None:
    quota = Quota(math.inf, 101)

    children = quota.split(3, weights=(5, 3, 2))

    assert [child.get_remaining() for child in children] == [(math.inf, 51), (math.inf, 30), (math.inf, 20)]
    assert quota.get_remaining() == (math.inf, 0)


@pytest.mark.parametrize("weights", [(1,), (1, 0), (1, 1, 1)])
def test_split_needs_a_positive_weight_for_each(weights: tuple[int, ...]) -> None:
    quota = Quota(1.0, 10)

    with pytest.raises(ValueError, match="cannot split"):
        quota.split(2, weights)
    assert quota.get_remaining() == (1.0, 10)


def test_split_of_an_unlimited_quota_into_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot split"):
        Quota.of({}).split(0)


def test_refund_and_has_sufficient_quota() -> None:
    quota = Quota(1.0, 10)
    quota.reserve(estimate(1.0, 10))
    assert not quota.has_sufficient_quota(estimate(0.1, 1))

    quota.refund(estimate(0.5, 5))

    assert quota.has_sufficient_quota(estimate(0.5, 5))


def test_a_quota_stays_in_its_process() -> None:
    with pytest.raises(TypeError, match="stays in the process"):
        pickle.dumps(Quota(1.0, 1))


def test_meters_that_a_user_names() -> None:
    quota = Quota.of({"searches": 2})

    assert quota.reserve({"searches": 2})
    assert not quota.reserve({"searches": 1})
    assert quota.remaining() == {"cost_nanousd": None, "tokens": None, "searches": 0}


def test_limits_become_integers_and_unlimited_is_absent() -> None:
    assert UsageLimits(total_cost_usd_limit=0.1).amounts() == {"cost_nanousd": 100_000_000}
    assert UsageLimits(total_tokens_limit=5, meters={"searches": 3}).amounts() == {"searches": 3, "tokens": 5}


@pytest.mark.parametrize("meters", [{"two words": 1}, {"a=b": 1}, {"": 1}, {"pages": -1}, {"pages": 2**53}])
def test_a_meter_that_cannot_be_counted_is_refused(meters: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="meters"):
        UsageLimits(meters=meters)


def test_a_cap_too_large_to_count_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="less than or equal"):
        UsageLimits(total_cost_usd_limit=1e10)


def test_amounts_text_round_trip() -> None:
    amounts = {"tokens": 5, "cost_nanousd": 2**53 - 1}

    assert parse_amounts(amounts_text(amounts)) == amounts
    assert to_nano_usd(0.1) == 100_000_000
    assert share_evenly(10, 3).base == 3
