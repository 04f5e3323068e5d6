"""Another attempt: when, and when not."""

from __future__ import annotations

import pytest

from flujo_client.execution.decision import NodeState
from flujo_client.execution.retry import RetryDecision, after_failure, after_loss
from flujo_client.protocol.spec import RetrySpec, StepSpec


@pytest.mark.parametrize(("failures", "delay"), [(1, 100), (2, 200), (3, 400), (5, 1000)])
def test_backoff_doubles_up_to_its_most(failures: int, delay: int) -> None:
    policy = RetrySpec(retries=9, base_ms=100, most_ms=1000, jitter=False)

    assert after_failure(policy, failures, "E", True, "s").delay_ms == delay


def test_jitter_is_the_same_for_everybody_who_decides() -> None:
    policy = RetrySpec(retries=9, base_ms=1000)

    delays = {after_failure(policy, 1, "E", True, f"run/{number}").delay_ms for number in range(50)}

    assert after_failure(policy, 1, "E", True, "x") == after_failure(policy, 1, "E", True, "x")
    assert len(delays) > 30
    assert all(0 <= delay <= 1000 for delay in delays)


@pytest.mark.parametrize(
    ("failures", "retryable", "error", "again"),
    [
        (1, True, "ValueError", True),
        (2, True, "ValueError", True),
        (3, True, "ValueError", False),  # two retries are two more attempts
        (1, False, "ValueError", False),
        (1, True, "KeyError", False),  # on the never list
    ],
)
def test_when_a_failed_attempt_is_followed_by_another(failures: int, retryable: bool, error: str, again: bool) -> None:
    policy = RetrySpec(retries=2, never=("KeyError",))

    assert after_failure(policy, failures, error, retryable, "s").again is again


def test_many_failures_do_not_overflow_the_delay() -> None:
    policy = RetrySpec(retries=10_000, base_ms=1, most_ms=60_000, jitter=False)

    assert after_failure(policy, 9_999, "E", True, "s") == RetryDecision(again=True, delay_ms=60_000)


@pytest.mark.parametrize(
    ("on_worker_lost", "losses", "reason", "again"),
    [
        ("retry", 1, "died", True),
        ("retry", 2, "overdue", True),
        ("retry", 3, "died", False),
        ("fail", 1, "died", False),
        ("pause", 1, "died", False),
        ("pause", 0, "handed_over", True),
        ("fail", 0, "handed_over", True),
        ("retry", 9, "stranger", True),
    ],
)
def test_when_a_lost_attempt_is_followed_by_another(on_worker_lost: str, losses: int, reason: str, again: bool) -> None:
    step = StepSpec.model_validate({"name": "a", "function": "m:a", "on_worker_lost": on_worker_lost})

    assert after_loss(step, NodeState(losses=losses), reason, 3).again is again
