"""Every error of Flujo and its place in the tree; `envelopes.py` carries them between processes.

FlujoError
├─ ConfigurationError
│  ├─ SettingsError                  a FLUJO_* variable is unknown or malformed
│  ├─ MissingAgentError              a step has nothing to run
│  ├─ UnqueueableError               a callable has no name that a worker could import
│  ├─ UnknownPipelineError           no worker has published a pipeline of this name
│  ├─ UnknownAccountError            nobody has defined a named account
│  ├─ UnsafeRedisError               Redis may evict keys, so it cannot hold the truth
│  ├─ PricingNotConfiguredError      a model's usage cannot be priced
│  ├─ HitlPolicyError                pausing for people is forbidden here
│  ├─ FeatureDisabled                something that this installation has switched off
│  └─ RewardModelUnavailable
├─ ExecutionError
│  ├─ UsageLimitExceededError        the budget cannot pay; carries `.result`
│  ├─ ImproperStepInvocationError    a step was called like a function
│  ├─ StepInvocationError            a step was asked for a method of its agent
│  ├─ NonRetryableError              user code says: do not try again
│  ├─ AgentIOValidationError         an agent's input or output does not validate
│  ├─ PluginError                    a plugin is faulty, or does not let an output stand
│  ├─ ParallelStepError              a parallel step cannot be put together
│  ├─ OrchestratorRetryError         user code asks for another attempt
│  ├─ ReplayError                    a run cannot be replayed from what was recorded
│  ├─ RunConflictError               the run id belongs to another run
│  ├─ RunNotFoundError
│  │  └─ TaskNotFoundError           no state backend keeps it
│  ├─ RunCancelledError
│  ├─ RunFailedError                 a run ended with an error that has no class of its own here
│  ├─ ResultTimeoutError             the run did not end in the time given; it goes on
│  ├─ PayloadError                   a value cannot be sent, or is too large
│  ├─ GranularResumeError            a granular step's turns do not fit its definition any more
│  └─ ResumeError                    a run cannot be resumed
├─ ControlFlowError                  never swallowed by the engine
│  ├─ InfiniteRedirectError          plugins redirect in a circle
│  ├─ HookFailedError                a hook raised where FLUJO_STRICT_HOOKS=1
│  ├─ InfiniteFallbackError          a step would fall back on itself
│  ├─ PipelineAbortSignal            ends the run as aborted
│  └─ PausedException                pauses the run until somebody answers
├─ ContextError
│  ├─ PipelineContextInitializationError
│  ├─ ContextInheritanceError        a nested run's context needs what its parent's lacks
│  ├─ ContextMergeError              branches set the same key to different values
│  └─ ContextFieldError, ContextIsolationError, ContextMutationError
├─ ValidationError
│  ├─ UsageAmountError               a step says that it used what is no amount
│  ├─ OutputRejectedError            a validator does not accept a step's output
│  ├─ InvariantViolatedError         a static invariant does not hold after a step
│  ├─ TypeMismatchError              an output does not fit the next step's input
│  ├─ TemplateResolutionError        a template names what is not there
│  └─ PipelineValidationError        a pipeline has faults; lists all of them
├─ StateUnavailableError             Redis does not answer
├─ ScriptRefusedError                Redis answers a script with an error
├─ BrokerUnavailableError            the broker does not answer
├─ SchemaMismatchError               a record or spec was written by a newer release
└─ MessageError                      a message that is none of ours, or garbage
QuotaExceededError stands apart, as users of `Quota` know it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

__all__ = [
    "AgentIOValidationError",
    "BrokerUnavailableError",
    "ConfigurationError",
    "ContextError",
    "ContextFieldError",
    "ContextInheritanceError",
    "ContextIsolationError",
    "ContextMergeError",
    "ContextMutationError",
    "ControlFlowError",
    "ExecutionError",
    "FeatureDisabled",
    "FlujoError",
    "GranularResumeError",
    "HitlPolicyError",
    "HookFailedError",
    "ImproperStepInvocationError",
    "InfiniteFallbackError",
    "InfiniteRedirectError",
    "InvariantViolatedError",
    "MessageError",
    "MissingAgentError",
    "NonRetryableError",
    "OrchestratorRetryError",
    "OutputRejectedError",
    "ParallelStepError",
    "PausedException",
    "PayloadError",
    "PipelineAbortSignal",
    "PipelineContextInitializationError",
    "PipelineValidationError",
    "PluginError",
    "PricingNotConfiguredError",
    "QuotaExceededError",
    "ReplayError",
    "ResultTimeoutError",
    "ResumeError",
    "RewardModelUnavailable",
    "RunCancelledError",
    "RunConflictError",
    "RunFailedError",
    "RunNotFoundError",
    "SchemaMismatchError",
    "ScriptRefusedError",
    "SettingsError",
    "StateUnavailableError",
    "StepInvocationError",
    "TaskNotFoundError",
    "TemplateResolutionError",
    "TypeMismatchError",
    "UnknownAccountError",
    "UnknownPipelineError",
    "UnqueueableError",
    "UnsafeRedisError",
    "UsageAmountError",
    "UsageLimitExceededError",
    "ValidationError",
]


class FlujoError(Exception):
    """Root of every error that Flujo raises.

    Args:
        message: What is wrong, with which run and step.
        suggestion: What to do about it; appended to the text.
        code: A short name of the fault, for programs.
        cause: What led to it; the same as `raise ... from cause`.
        data: Facts of the error by name, JSON values; attributes `error.data["..."]`, and sent with it.

    Attributes:
        retryable: Whether an attempt that ends with it is worth another one.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        suggestion: str | None = None,
        code: str | None = None,
        cause: BaseException | None = None,
        **data: Any,
    ) -> None:
        self.message = message
        self.suggestion = suggestion
        self.code = code
        self.data = data
        if cause is not None:
            self.__cause__ = cause
        super().__init__(message if suggestion is None else f"{message} {suggestion}")

    @property
    def cause(self) -> BaseException | None:
        """What led to it."""
        return self.__cause__

    @classmethod
    def rebuilt(
        cls,
        message: str,
        suggestion: str | None,
        code: str | None,
        data: dict[str, Any],
        cause: BaseException | None = None,
    ) -> Self:
        """The error again, from what it says of itself, whatever its own constructor takes."""
        error = cls.__new__(cls)
        FlujoError.__init__(error, message, suggestion=suggestion, code=code, cause=cause, **data)
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process pools whole, but for their cause, which may be anything."""
        state = {name: value for name, value in vars(self).items() if name not in _REBUILT}
        return type(self).rebuilt, (self.message, self.suggestion, self.code, self.data), state


#: Attributes that `FlujoError.rebuilt` sets.
_REBUILT = frozenset({"message", "suggestion", "code", "data"})


def _fact(name: str, meaning: str) -> Any:
    """An attribute that reads one of an error's data, so that it is there on the other side of the wire as well."""
    return property(lambda error: error.data.get(name), doc=meaning)


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


class UnknownAccountError(ConfigurationError):
    """A run, or a step of it, names an account that nobody has defined."""


class UnsafeRedisError(ConfigurationError):
    """Redis is configured so that it may throw committed steps away."""


class PricingNotConfiguredError(ConfigurationError):
    """A model's usage cannot be priced.

    Args:
        provider: Of the model; None if it is not known.
        model: Its name.
    """

    def __init__(self, provider: str | None, model: str) -> None:
        super().__init__(
            f"Model '{model}' of provider '{provider or 'unknown'}' has no price.",
            suggestion="Report its cost with run.usage.add(cost_usd=...), or name a model that genai-prices knows.",
            provider=provider,
            model=model,
        )

    provider = _fact("provider", "Of the model.")
    model = _fact("model", "Its name.")


class HitlPolicyError(ConfigurationError):
    """A pipeline pauses for people where FLUJO_ALLOW_HITL=0 forbids it."""


class FeatureDisabled(ConfigurationError):
    """Something that this installation has switched off."""


class RewardModelUnavailable(ConfigurationError):
    """A reward model that was asked for cannot be used."""


class ExecutionError(FlujoError):
    """A run, or a step of it, could not be executed."""


class UsageLimitExceededError(ExecutionError):
    """A run's budget cannot pay for a step, or a step cost more than was left.

    Attributes:
        result: The run's `PipelineResult` up to and including the breaching step; None on the worker.
    """

    result: Any = None

    def __init__(self, message: str = "", result: Any = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.result = result


class ImproperStepInvocationError(ExecutionError):
    """A step was called like a function; compose it into a pipeline and run that."""


class StepInvocationError(ExecutionError):
    """A step was asked for a method that belongs to its agent.

    Args:
        step_name: Of the step.
    """

    def __init__(self, step_name: str) -> None:
        super().__init__(
            f"Step '{step_name}' has no run() or stream() of its own.",
            suggestion="Compose it into a pipeline and run that, or call arun() to test its function alone.",
            step=step_name,
        )


class AgentIOValidationError(ExecutionError):
    """What an agent was given, or gave, does not validate."""


class PluginError(ExecutionError):
    """A plugin is faulty, or does not let a step's output stand; that is tried again if the step has a fallback."""

    retryable = True


class ParallelStepError(ExecutionError):
    """A parallel step cannot be put together."""


class OrchestratorRetryError(ExecutionError):
    """Raised by user code that asks for another attempt."""

    retryable = True


class ReplayError(ExecutionError):
    """A run cannot be replayed from what was recorded of it."""


class NonRetryableError(ExecutionError):
    """Raised by user code to fail the step without another attempt."""


class RunConflictError(ExecutionError):
    """The run id is taken by a run of another pipeline or another input, or by another fork."""


class RunNotFoundError(ExecutionError):
    """No run of this id is known, or its retention has ended."""

    @classmethod
    def of(cls, run_id: str) -> Self:
        """The error of an id that Redis does not know."""
        return cls(
            f"No run {run_id} is known.",
            suggestion="Check the id and FLUJO_NAMESPACE; its retention may have ended, and in process a run lives in the Flujo object "
            "that ran it.",
            run_id=run_id,
        )


class TaskNotFoundError(RunNotFoundError):
    """A state backend keeps no run of this id."""


class RunCancelledError(ExecutionError):
    """The run was cancelled."""


class RunFailedError(ExecutionError):
    """The run ended with an error whose class is not known here; `.data['type']` names it."""


class ResultTimeoutError(ExecutionError):
    """The run did not end in the time given. It goes on: ask again, or cancel it."""


class PayloadError(ExecutionError):
    """A value cannot be stored: it is no JSON value, or larger than the limit."""


class GranularResumeError(ExecutionError):
    """A granular step's stored turns do not fit its definition any more; `.data["irrecoverable"]` says whether they ever will."""


class ResumeError(ExecutionError):
    """A run cannot be resumed: nothing of it waits for this answer, it was answered before, or it has ended."""


class ControlFlowError(FlujoError):
    """Raised to steer a run; the engine never treats it as a failure."""


class HookFailedError(ControlFlowError):
    """A hook raised, and FLUJO_STRICT_HOOKS=1 says that this ends the run; `__cause__` is what it raised."""


class InfiniteRedirectError(ControlFlowError):
    """Plugins redirect a step in a circle."""


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


class ContextInheritanceError(ContextError):
    """A nested run's context model needs fields that its parent's context lacks.

    Args:
        missing_fields: Their names.
        parent_context_keys: What the parent's context has.
        child_model_name: Of the nested run's context.
    """

    def __init__(
        self, missing_fields: Iterable[str], parent_context_keys: Iterable[str], child_model_name: str
    ) -> None:
        missing, keys = list(missing_fields), sorted(parent_context_keys)
        super().__init__(
            f"Context model '{child_model_name}' needs {', '.join(missing)}, and the parent's context has only "
            f"{', '.join(keys) or 'nothing'}.",
            suggestion="Give the fields defaults, or set them before the nested run.",
            missing_fields=missing,
            parent_context_keys=keys,
            child_model_name=child_model_name,
        )

    missing_fields = _fact("missing_fields", "What the parent's context lacks.")
    parent_context_keys = _fact("parent_context_keys", "What it has.")
    child_model_name = _fact("child_model_name", "The model that needs more.")


class ContextFieldError(ContextError):
    """A field of a context does not exist, or cannot be what it was set to."""


class ContextIsolationError(ContextError):
    """A context could not be copied for a branch."""


class ContextMergeError(ContextError):
    """Branches set the same key of the context to different values."""


class ContextMutationError(ContextError):
    """A context was changed where it may not be."""


class ValidationError(FlujoError):
    """Something does not fit its declared type or shape."""


class OutputRejectedError(ValidationError):
    """A validator does not accept a step's output."""


class InvariantViolatedError(ValidationError):
    """A static invariant does not hold after a step."""


class TypeMismatchError(ValidationError):
    """An output does not fit the input that the next step declares."""


class TemplateResolutionError(ValidationError):
    """A template names what the context does not have."""


class UsageAmountError(ValidationError):
    """A step reported, or asked for, an amount that cannot be counted."""


class PipelineValidationError(ValidationError, ValueError):
    """A pipeline has faults. `.data['faults']` lists every one of them."""


class StateUnavailableError(FlujoError):
    """Redis, which holds the runs, does not answer."""


class ScriptRefusedError(FlujoError):
    """Redis answered a script with an error that will not pass: nothing of that call is stored."""


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
