"""Flujo: typed pipelines, run in process or as queued tasks on a fleet of Celery workers."""

import flujo_client.starting  # noqa: F401, I001 - before what takes long to import
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flujo_client.account_book import AccountStatus
from flujo_client.archive.backend import StateBackend, WorkflowState
from flujo_client.archive.documents import FileBackend, InMemoryBackend
from flujo_client.archive.opening import sql_backend
from flujo_client.client import AsyncFlujoClient
from flujo_client.dsl.agents import AsyncAgentProtocol, BranchKey
from flujo_client.dsl.cache import CacheStep, InMemoryCache
from flujo_client.dsl.conditional import ConditionalStep
from flujo_client.dsl.config import BranchFailureStrategy, MergeStrategy, StepConfig
from flujo_client.dsl.decorators import adapter_step, step
from flujo_client.dsl.estimates import EstimatorRegistry, get_estimator_registry
from flujo_client.dsl.findings import ValidationFinding, ValidationReport
from flujo_client.dsl.granular import GranularStep
from flujo_client.dsl.hitl import HumanInTheLoopStep
from flujo_client.dsl.loop import LoopStep
from flujo_client.dsl.machine import StateMachineStep, Transition
from flujo_client.dsl.mapping import MapStep
from flujo_client.dsl.parallel import ParallelStep
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.dsl.refine import RefinementCheck
from flujo_client.dsl.router import DynamicParallelRouterStep
from flujo_client.dsl.skills import SkillRegistry, get_skill_registry
from flujo_client.dsl.step import Step
from flujo_client.dsl.subpipeline import SubPipelineStep
from flujo_client.execution.manager import ExecutionManager
from flujo_client.execution_backend import ExecutionBackend, StepExecutionRequest
from flujo_client.extras import optional
from flujo_client.pipeline_registry import PipelineRegistry
from flujo_client.protocol.agent_results import FlujoAgentResult, FlujoAgentUsage
from flujo_client.protocol.attachments import (
    AgentProcessors,
    AppResources,
    PluginOutcome,
    ValidationPlugin,
    ValidationResult,
    Validator,
)
from flujo_client.protocol.errors import (
    AgentIOValidationError,
    BrokerUnavailableError,
    ConfigurationError,
    ContextError,
    ContextFieldError,
    ContextInheritanceError,
    ContextIsolationError,
    ContextMergeError,
    ContextMutationError,
    ControlFlowError,
    ExecutionError,
    FeatureDisabled,
    FlujoError,
    GranularResumeError,
    HitlPolicyError,
    HookFailedError,
    ImproperStepInvocationError,
    InfiniteFallbackError,
    InfiniteRedirectError,
    InvariantViolatedError,
    MessageError,
    MissingAgentError,
    NonRetryableError,
    OrchestratorRetryError,
    OutputRejectedError,
    ParallelStepError,
    PausedException,
    PayloadError,
    PipelineAbortSignal,
    PipelineContextInitializationError,
    PipelineValidationError,
    PluginError,
    PricingNotConfiguredError,
    QuotaExceededError,
    ReplayError,
    ResultTimeoutError,
    ResumeError,
    RewardModelUnavailable,
    RunCancelledError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    SchemaMismatchError,
    SettingsError,
    StateUnavailableError,
    StepInvocationError,
    TaskNotFoundError,
    TemplateResolutionError,
    TypeMismatchError,
    UnknownAccountError,
    UnknownPipelineError,
    UnqueueableError,
    UnsafeRedisError,
    UsageAmountError,
    UsageLimitExceededError,
    ValidationError,
)
from flujo_client.protocol.hooks import Hook as HookCallable
from flujo_client.protocol.named import Account
from flujo_client.protocol.outcomes import (
    Aborted,
    BackgroundLaunched,
    Chunk,
    Failure,
    Paused,
    StepOutcome,
    Success,
    to_outcome,
    unwrap,
)
from flujo_client.protocol.pipeline_context import BaseContext, ExecutedCommandLog, typed_context
from flujo_client.protocol.quota import Quota, UsageEstimate, UsageLimits
from flujo_client.protocol.references import ContextReference, StateProvider
from flujo_client.protocol.results import (
    ConversationRole,
    ConversationTurn,
    HookPayload,
    HumanInteraction,
    OnLimitPayload,
    OnLimitWarningPayload,
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    Pause,
    PipelineContext,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    RunStatus,
    StepResult,
)
from flujo_client.protocol.settings import Settings
from flujo_client.protocol.step_run import StepRun, current_step_run
from flujo_client.protocol.tracing import configure_sdk as init_telemetry
from flujo_client.protocol.types import TypeValidator
from flujo_client.runner import Flujo
from flujo_client.state import StateManager
from flujo_client.sync_client import FlujoClient
from flujo_client.task_client import SystemState, TaskClient, TaskDetail, TaskStatus, TaskSummary

if TYPE_CHECKING:
    from flujo_client.archive.sql import PostgresBackend, SQLiteBackend
    from flujo_client.metering.model_agents import make_agent_async

__all__ = [
    "Aborted",
    "Account",
    "AccountStatus",
    "AgentIOValidationError",
    "AgentProcessors",
    "AppResources",
    "AsyncAgentProtocol",
    "AsyncFlujoClient",
    "BackgroundLaunched",
    "BaseContext",
    "BaseModel",
    "BranchFailureStrategy",
    "BranchKey",
    "BrokerUnavailableError",
    "CacheStep",
    "Chunk",
    "ConditionalStep",
    "ConfigurationError",
    "ContextError",
    "ContextFieldError",
    "ContextInheritanceError",
    "ContextIsolationError",
    "ContextMergeError",
    "ContextMutationError",
    "ContextReference",
    "ControlFlowError",
    "ConversationRole",
    "ConversationTurn",
    "DynamicParallelRouterStep",
    "EstimatorRegistry",
    "ExecutedCommandLog",
    "ExecutionBackend",
    "ExecutionError",
    "ExecutionManager",
    "Failure",
    "FeatureDisabled",
    "FileBackend",
    "Flujo",
    "FlujoAgentResult",
    "FlujoAgentUsage",
    "FlujoClient",
    "FlujoError",
    "GranularResumeError",
    "GranularStep",
    "HitlPolicyError",
    "HookCallable",
    "HookFailedError",
    "HookPayload",
    "HumanInTheLoopStep",
    "HumanInteraction",
    "ImproperStepInvocationError",
    "InMemoryBackend",
    "InMemoryCache",
    "InfiniteFallbackError",
    "InfiniteRedirectError",
    "InvariantViolatedError",
    "LoopStep",
    "MapStep",
    "MergeStrategy",
    "MessageError",
    "MissingAgentError",
    "NonRetryableError",
    "OnLimitPayload",
    "OnLimitWarningPayload",
    "OnPauseRequestedPayload",
    "OnStepFailurePayload",
    "OrchestratorRetryError",
    "OutputRejectedError",
    "ParallelStep",
    "ParallelStepError",
    "Pause",
    "Paused",
    "PausedException",
    "PayloadError",
    "Pipeline",
    "PipelineAbortSignal",
    "PipelineContext",
    "PipelineContextInitializationError",
    "PipelineRegistry",
    "PipelineResult",
    "PipelineValidationError",
    "PluginError",
    "PluginOutcome",
    "PostRunPayload",
    "PostStepPayload",
    "PostgresBackend",
    "PreRunPayload",
    "PreStepPayload",
    "PricingNotConfiguredError",
    "Quota",
    "QuotaExceededError",
    "RefinementCheck",
    "ReplayError",
    "ResultTimeoutError",
    "ResumeError",
    "RewardModelUnavailable",
    "RunCancelledError",
    "RunConflictError",
    "RunFailedError",
    "RunNotFoundError",
    "RunStatus",
    "SQLiteBackend",
    "SchemaMismatchError",
    "Settings",
    "SettingsError",
    "SkillRegistry",
    "StateBackend",
    "StateMachineStep",
    "StateManager",
    "StateProvider",
    "StateUnavailableError",
    "Step",
    "StepConfig",
    "StepExecutionRequest",
    "StepInvocationError",
    "StepOutcome",
    "StepResult",
    "StepRun",
    "SubPipelineStep",
    "Success",
    "SystemState",
    "TaskClient",
    "TaskDetail",
    "TaskNotFoundError",
    "TaskStatus",
    "TaskSummary",
    "TemplateResolutionError",
    "Transition",
    "TypeMismatchError",
    "TypeValidator",
    "UnknownAccountError",
    "UnknownPipelineError",
    "UnqueueableError",
    "UnsafeRedisError",
    "UsageAmountError",
    "UsageEstimate",
    "UsageLimitExceededError",
    "UsageLimits",
    "ValidationError",
    "ValidationFinding",
    "ValidationPlugin",
    "ValidationReport",
    "ValidationResult",
    "Validator",
    "WorkflowState",
    "__version__",
    "adapter_step",
    "current_step_run",
    "get_estimator_registry",
    "get_skill_registry",
    "init_telemetry",
    "make_agent_async",
    "mapper",
    "step",
    "to_outcome",
    "typed_context",
    "unwrap",
]

#: Of the installed distribution.
__version__ = version("flujo-distributed")

#: A function as a step, under the name that says what a mapper is for.
mapper = Step.from_mapper


def __getattr__(name: str) -> Any:
    """What needs the extra `sql`, or `pydantic-ai`, is imported when it is asked for; without it, see `optional`."""
    if name in ("PostgresBackend", "SQLiteBackend"):
        return sql_backend(name)
    if name == "make_agent_async":
        return optional("flujo_client.metering.model_agents", name, "pydantic-ai")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
