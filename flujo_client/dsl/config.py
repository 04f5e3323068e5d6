"""The terms of steps: `StepConfig`, and what parallel steps do with contexts and failures."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flujo_client.protocol.queues import DEFAULT_QUEUE

__all__ = ["BranchFailureStrategy", "MergeStrategy", "StepConfig"]


class StepConfig(BaseModel):
    """The terms of a step.

    Attributes:
        max_retries: Attempts after the first that failed; 1 means two attempts.
        timeout_s: Seconds per attempt; None for no limit but the lease's hour.
        queue: Served by workers that name it; for steps that need special machines.
        backoff_s: Seconds before the first retry, doubled for each further one; 0 retries at once.
        backoff_max_s: Longest such delay.
        jitter: Wait a random part of the delay.
        never_retry: Exception classes that are not worth another attempt.
        expected_cost_usd: Upper bound of an attempt's cost, USD; reserved before it starts.
        expected_tokens: Upper bound of an attempt's tokens; reserved before it starts.
        expected_meters: Upper bounds of the meters that the user named.
        on_worker_lost: Whether a step whose worker died runs again, or fails.
        lost_spend: Whether such a loss's reservation stays charged, since the provider may have billed it, or is refunded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    max_retries: int = Field(1, ge=0)
    timeout_s: float | None = Field(None, gt=0)
    queue: str = DEFAULT_QUEUE
    backoff_s: float = Field(0.0, ge=0)
    backoff_max_s: float = Field(60.0, ge=0)
    jitter: bool = True
    never_retry: tuple[type[BaseException], ...] = ()
    expected_cost_usd: float = Field(0.0, ge=0)
    expected_tokens: int = Field(0, ge=0)
    expected_meters: dict[str, int] = Field(default_factory=dict)
    on_worker_lost: Literal["retry", "fail"] = "retry"
    lost_spend: Literal["charge", "refund"] = "charge"


class MergeStrategy(StrEnum):
    """How the contexts of parallel branches become one, in declared order."""

    NO_MERGE = "no_merge"  # what branches did to their contexts is dropped
    OVERWRITE = "overwrite"  # the last branch that changed a key wins
    CONTEXT_UPDATE = "context_update"  # numbers add up, lists are joined; any other conflict fails the step
    ERROR_ON_CONFLICT = "error_on_conflict"  # any conflict fails the step
    KEEP_FIRST = "keep_first"  # the first branch that changed a key wins


class BranchFailureStrategy(StrEnum):
    """What a failed branch means for its parallel step. Its siblings always run to their end."""

    PROPAGATE = "propagate"  # the parallel step fails
    IGNORE = "ignore"  # it fails only if every branch does
