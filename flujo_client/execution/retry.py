"""The rules of another attempt: after a failure, and after a lost worker. Pure."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from flujo_client.execution.decision import NodeState
from flujo_client.protocol.spec import RetrySpec, StepSpec

__all__ = ["RetryDecision", "after_failure", "after_loss"]


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether another attempt is made, and after how many ms."""

    again: bool
    delay_ms: int = 0


def after_failure(policy: RetrySpec, failures: int, error_type: str, retryable: bool, seed: str) -> RetryDecision:
    """Decide after an attempt failed.

    Args:
        policy: The step's.
        failures: Failed attempts, this one included.
        error_type: Name of the exception's class.
        retryable: What the worker knows of the error; False for a `NonRetryableError`, a type mismatch and the like.
        seed: Makes the jitter: the same run, path and attempt wait equally long whoever decides.

    Returns:
        The delay is base · 2^(failures - 1), at most `most_ms`; with jitter a uniform part of it ("full jitter",
        M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015).
    """
    if not retryable or failures > policy.retries or error_type in policy.never:
        return RetryDecision(again=False)
    delay_ms = min(policy.most_ms, policy.base_ms * 2 ** min(failures - 1, 30))
    if policy.jitter:
        delay_ms = delay_ms * (zlib.crc32(seed.encode()) % 1001) // 1000
    return RetryDecision(again=True, delay_ms=delay_ms)


def after_loss(step: StepSpec, node: NodeState, reason: str, max_deliveries: int) -> RetryDecision:
    """Decide after an attempt was lost. An attempt that was handed over, or never started, always runs again.

    Args:
        node: The step's state with this loss counted.
        reason: As lose.lua reports it.
    """
    if reason in ("handed_over", "stranger"):
        return RetryDecision(again=True)
    return RetryDecision(again=step.on_worker_lost == "retry" and node.losses < max_deliveries)
