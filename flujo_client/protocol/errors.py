"""Every error of Flujo, its place in the tree, and its envelope on the wire.

FlujoError
├─ ConfigurationError
│  ├─ SettingsError                  a FLUJO_* variable is unknown or malformed
│  ├─ MissingAgentError              a step has nothing to run
│  ├─ UnqueueableError               a callable has no name that a worker could import
│  ├─ UnknownPipelineError           no worker has published a pipeline of this name
│  ├─ UnsafeRedisError               Redis may evict keys, so it cannot hold the truth
│  └─ PricingNotConfiguredError
├─ ExecutionError
│  ├─ UsageLimitExceededError        the budget cannot pay; carries `.result`
│  ├─ ImproperStepInvocationError    a step was called like a function
│  ├─ StepInvocationError
│  ├─ NonRetryableError              user code says: do not try again
│  ├─ RunConflictError               the run id belongs to another run
│  ├─ RunNotFoundError
│  ├─ RunCancelledError
│  ├─ RunFailedError                 a run ended with an error that has no class of its own here
│  ├─ ResultTimeoutError             the run did not end in the time given; it goes on
│  ├─ PayloadError                   a value cannot be sent, or is too large
│  └─ ResumeError
├─ ControlFlowError                  never swallowed by the engine
│  ├─ InfiniteFallbackError
│  ├─ PipelineAbortSignal
│  └─ PausedException
├─ ContextError
│  ├─ PipelineContextInitializationError
│  └─ ContextMergeError
├─ ValidationError
│  ├─ UsageAmountError               a step says that it used what is no amount
│  ├─ TypeMismatchError              an output does not fit the next step's input
│  └─ PipelineValidationError        a pipeline has faults; lists all of them
├─ StateUnavailableError             Redis does not answer
├─ BrokerUnavailableError            the broker does not answer
├─ SchemaMismatchError               a record or spec was written by a newer release
└─ MessageError                      a message that is none of ours, or garbage
QuotaExceededError stands apart, as users of `Quota` know it.
"""

from __future__ import annotations

import json
from typing import Any

__all__ = [
    "BrokerUnavailableError",
    "ConfigurationError",
    "ContextError",
    "ContextMergeError",
    "ControlFlowError",
    "ExecutionError",
    "FlujoError",
    "ImproperStepInvocationError",
    "InfiniteFallbackError",
    "MessageError",
    "MissingAgentError",
    "NonRetryableError",
    "PausedException",
    "PayloadError",
    "PipelineAbortSignal",
    "PipelineContextInitializationError",
    "PipelineValidationError",
    "PricingNotConfiguredError",
    "QuotaExceededError",
    "ResultTimeoutError",
    "ResumeError",
    "RunCancelledError",
    "RunConflictError",
    "RunFailedError",
    "RunNotFoundError",
    "SchemaMismatchError",
    "SettingsError",
    "StateUnavailableError",
    "StepInvocationError",
    "TypeMismatchError",
    "UnknownPipelineError",
    "UnqueueableError",
    "UnsafeRedisError",
    "UsageAmountError",
    "UsageLimitExceededError",
    "ValidationError",
    "describe_error",
    "rebuild_error",
]


class FlujoError(Exception):
    """Root of every error that Flujo raises.

    Args:
        message: What is wrong, with which run and step.
        suggestion: What to do about it; appended to the text.
        data: Facts of the error by name, JSON values; attributes `error.data["..."]`, and sent with it.
    """

    def __init__(self, message: str = "", *, suggestion: str | None = None, **data: Any) -> None:
        self.message = message
        self.suggestion = suggestion
        self.data = data
        super().__init__(message if suggestion is None else f"{message} {suggestion}")


class ConfigurationError(FlujoError):
    """The program is set up wrongly; nothing was run."""


class SettingsError(ConfigurationError):
    """One or more FLUJO_* variables are unknown or malformed."""


class MissingAgentError(ConfigurationError):
    """A step has no agent: nothing to run."""


class UnqueueableError(ConfigurationError):
    """Callables of a pipeline have no importable name, so no worker could find them."""


class UnknownPipelineError(ConfigurationError):
    """No worker has published a pipeline of this name."""


class UnsafeRedisError(ConfigurationError):
    """Redis is configured so that it may throw committed steps away."""


class PricingNotConfiguredError(ConfigurationError):
    """A model's usage cannot be priced."""


class ExecutionError(FlujoError):
    """A run, or a step of it, could not be executed."""


class UsageLimitExceededError(ExecutionError):
    """A run's budget cannot pay for a step, or a step cost more than was left.

    Attributes:
        result: The run's `PipelineResult` up to and including the breaching step; None on the worker.
    """

    def __init__(self, message: str = "", result: Any = None, *, suggestion: str | None = None, **data: Any) -> None:
        super().__init__(message, suggestion=suggestion, **data)
        self.result = result


class ImproperStepInvocationError(ExecutionError):
    """A step was called like a function; compose it into a pipeline and run that."""


class StepInvocationError(ExecutionError):
    """A step was asked for a method that belongs to its agent."""


class NonRetryableError(ExecutionError):
    """Raised by user code to fail the step without another attempt."""


class RunConflictError(ExecutionError):
    """The run id is taken by a run of another pipeline or another input."""


class RunNotFoundError(ExecutionError):
    """No run of this id is known, or its retention has ended."""


class RunCancelledError(ExecutionError):
    """The run was cancelled."""


class RunFailedError(ExecutionError):
    """The run ended with an error whose class is not known here; `.data['type']` names it."""


class ResultTimeoutError(ExecutionError):
    """The run did not end in the time given. It goes on: ask again, or cancel it."""


class PayloadError(ExecutionError):
    """A value cannot be stored: it is no JSON value, or larger than the limit."""


class ResumeError(ExecutionError):
    """A run cannot be resumed."""


class ControlFlowError(FlujoError):
    """Raised to steer a run; the engine never treats it as a failure."""


class InfiniteFallbackError(ControlFlowError):
    """A step would fall back on itself."""


class PipelineAbortSignal(ControlFlowError):
    """Raised by a hook to end the run as aborted."""


class PausedException(ControlFlowError):
    """Raised by a step to pause the run until somebody answers."""


class ContextError(FlujoError):
    """A run's context could not be built, read or merged."""


class PipelineContextInitializationError(ContextError):
    """The initial context data does not fit the context model."""


class ContextMergeError(ContextError):
    """Branches set the same key of the context to different values."""


class ValidationError(FlujoError):
    """Something does not fit its declared type or shape."""


class TypeMismatchError(ValidationError):
    """An output does not fit the input that the next step declares."""


class UsageAmountError(ValidationError):
    """A step reported, or asked for, an amount that cannot be counted."""


class PipelineValidationError(ValidationError, ValueError):
    """A pipeline has faults. `.data['faults']` lists every one of them."""


class StateUnavailableError(FlujoError):
    """Redis, which holds the runs, does not answer."""


class BrokerUnavailableError(FlujoError):
    """The broker does not take messages."""


class SchemaMismatchError(FlujoError):
    """A record or spec was written by a release newer than this one."""


class MessageError(FlujoError):
    """A message that no release of Flujo could have sent, or that cannot be read."""


class QuotaExceededError(Exception):
    """An actual usage was higher than its estimate and what was left together.

    Attributes:
        remaining_cost_usd, remaining_tokens: What was left before the overage was taken, USD and tokens.
        extra_cost_usd, extra_tokens: The whole overage, USD and tokens.
    """

    def __init__(
        self, remaining_cost_usd: float, remaining_tokens: int, extra_cost_usd: float, extra_tokens: int
    ) -> None:
        self.remaining_cost_usd = remaining_cost_usd
        self.remaining_tokens = remaining_tokens
        self.extra_cost_usd = extra_cost_usd
        self.extra_tokens = extra_tokens
        super().__init__(
            f"Insufficient quota: {extra_cost_usd} USD and {extra_tokens} tokens over the estimate, "
            f"{remaining_cost_usd} USD and {remaining_tokens} tokens left"
        )


def describe_error(error: BaseException, message: str | None = None) -> dict[str, Any]:
    """The JSON envelope of an error: `type`, `message`, and `data` when it is a Flujo error.

    Args:
        message: Instead of the error's own text.
    """
    data = _plain(error.data) if isinstance(error, FlujoError) else {}
    return {"type": type(error).__name__, "message": str(error) if message is None else message, "data": data}


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Data as JSON values: user code may raise our errors with anything in them, and they must reach Redis all the same."""
    try:
        text = json.dumps(data, ensure_ascii=False, default=repr, skipkeys=True)
    except ValueError:  # it contains itself
        return {}
    return dict(json.loads(text.encode("utf-8", "replace")))


def rebuild_error(envelope: dict[str, Any]) -> FlujoError:
    """The Flujo error that an envelope describes; `RunFailedError` where its class is not one of ours."""
    cls = globals().get(envelope["type"])
    data = envelope.get("data", {})
    if isinstance(cls, type) and issubclass(cls, FlujoError):
        return cls(envelope["message"], **data)
    return RunFailedError(envelope["message"], **{**data, "type": envelope["type"]})
