"""The terms of steps: `StepConfig`, and what parallel steps do with contexts and failures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field

from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.named import AccountName
from flujo_client.protocol.queues import DEFAULT_QUEUE
from flujo_client.protocol.told import Told

__all__ = [
    "BranchFailureStrategy",
    "MergeStrategy",
    "StepConfig",
    "adapter_marks",
    "override_config",
]


class StepConfig(Told):
    """The terms of a step.

    Attributes:
        max_retries: Attempts after the first that failed; 1 means two attempts.
        timeout_s: Seconds per attempt; None for no limit but the lease's hour.
        temperature, top_k, top_p: Handed to agents that take them.
        preserve_fallback_diagnostics: Noted in the result of a step that fell back.
        queue: Served by workers that name it; for steps that need special machines.
        backoff_s: Seconds before the first retry, doubled for each further one; 0 retries at once.
        backoff_max_s: Longest such delay.
        jitter: Wait a random part of the delay.
        never_retry: Exception classes that are not worth another attempt.
        expected_cost_usd: Upper bound of an attempt's cost, USD; reserved before it starts.
        expected_tokens: Upper bound of an attempt's tokens; reserved before it starts.
        expected_meters: Upper bounds of the meters that the user named.
        estimate_quantile: 0.95 reserves what 95 of 100 attempts before have not exceeded, once 20 are known, instead of what was
            expected; no upper bound any more. None: nothing is learned.
        execution_mode: `background`: the pipeline goes on at once, with the step's input; the step works on a copy of the
            context, which ends with it. The run ends when its background steps have ended; their failures do not fail it.
        on_worker_lost: Whether a step whose worker died runs again (three times at the most), fails, or waits until somebody
            says so: `flujo dead`.
        accounts: Named accounts that pay for it besides those of its run, such as that of the provider's key; see `Account`.
        lost_spend: Whether such a loss's reservation stays charged, since the provider may have billed it, or is refunded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    max_retries: int = Field(1, ge=0)
    timeout_s: float | None = Field(None, gt=0)
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    preserve_fallback_diagnostics: bool = False
    queue: str = DEFAULT_QUEUE
    backoff_s: float = Field(0.0, ge=0)
    backoff_max_s: float = Field(60.0, ge=0)
    jitter: bool = True
    never_retry: tuple[type[BaseException], ...] = ()
    expected_cost_usd: float = Field(0.0, ge=0)
    expected_tokens: int = Field(0, ge=0)
    expected_meters: dict[str, int] = Field(default_factory=dict)
    estimate_quantile: float | None = Field(None, gt=0, le=1)
    execution_mode: Literal["sync", "background"] = "sync"
    on_worker_lost: Literal["retry", "fail", "pause"] = "retry"
    lost_spend: Literal["charge", "refund"] = "charge"
    accounts: tuple[AccountName, ...] = ()


def override_config(step: str, config: StepConfig | None, terms: Mapping[str, Any]) -> StepConfig:
    """A config with some of its terms replaced; a warning names those that were set and are not meant any more.

    Raises:
        ConfigurationError: Terms are none that a step can have; names the step and each of them.
    """
    if config is None:
        return _checked(step, terms)
    replaced = sorted(config.model_fields_set & terms.keys())
    if replaced:
        warnings.warn(f"{', '.join(replaced)} given besides config: the config's own are not used.", stacklevel=4)
    return _checked(step, {**{name: getattr(config, name) for name in config.model_fields_set}, **terms})


def _checked(step: str, terms: Mapping[str, Any]) -> StepConfig:
    try:
        return StepConfig(**terms)
    except ConfigurationError as error:
        raise ConfigurationError(f"Step '{step}' cannot be made: {'; '.join(error.data['faults'])}.") from error


def adapter_marks(adapter_id: str | None, adapter_allow: str | None) -> dict[str, Any]:
    """The marks of an adapter in a step's `meta`. Raises `ValueError` if it does not say which it is, and what allows it."""
    if not adapter_id or not adapter_allow:
        raise ValueError("An adapter step needs adapter_id and adapter_allow.")
    return {"is_adapter": True, "adapter_id": adapter_id, "adapter_allow": adapter_allow}


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
