"""The names that existing code imports, and from where: changing the import lines is all that it needs."""

from __future__ import annotations

import sys

import pytest

import flujo_client
import flujo_worker

#: What the single-process library has at its top level.
TOP = "Flujo Pipeline Step StepConfig step PipelineResult make_agent_async init_telemetry TaskClient __version__"

#: What it has in its modules for the domain, the DSL and the models.
DOMAIN = """
    Step step adapter_step Pipeline StepConfig MapStep ParallelStep MergeStrategy BranchFailureStrategy BaseContext typed_context mapper
    PipelineResult StepResult UsageLimits ExecutedCommandLog FlujoAgentResult FlujoAgentUsage HookCallable HookPayload ExecutionBackend
    StepExecutionRequest AgentProcessors PluginOutcome ValidationPlugin Validator ValidationResult ValidationFinding ValidationReport
    AppResources
    LoopStep ConditionalStep StateMachineStep BranchKey GranularStep ResumeError CacheStep
    StepOutcome Success Failure Paused Aborted Chunk BackgroundLaunched PipelineContext UsageEstimate Quota QuotaExceededError
    HumanInteraction ConversationTurn ConversationRole ContextReference RefinementCheck BaseModel
"""

#: Its payloads of hooks, errors, and what else users and their tests reach for.
OTHERS = """
    PreRunPayload PostRunPayload PreStepPayload PostStepPayload OnStepFailurePayload OnPauseRequestedPayload
    FlujoError ConfigurationError SettingsError RewardModelUnavailable FeatureDisabled PricingNotConfiguredError MissingAgentError
    HitlPolicyError ExecutionError OrchestratorRetryError UsageLimitExceededError ImproperStepInvocationError AgentIOValidationError
    NonRetryableError ReplayError PluginError StepInvocationError ParallelStepError ControlFlowError InfiniteRedirectError
    InfiniteFallbackError PipelineAbortSignal PausedException ContextError PipelineContextInitializationError ContextInheritanceError
    ContextFieldError ContextIsolationError ContextMergeError ContextMutationError ValidationError TypeMismatchError
    TemplateResolutionError GranularResumeError
    to_outcome unwrap WorkflowState StateBackend InMemoryBackend FileBackend SQLiteBackend PostgresBackend PipelineRegistry InMemoryCache
    TaskStatus TaskSummary TaskDetail SystemState TaskNotFoundError AsyncAgentProtocol
    ExecutionManager StateManager TypeValidator
"""


@pytest.mark.parametrize("name", sorted({*TOP.split(), *DOMAIN.split(), *OTHERS.split()}))
def test_a_name_of_existing_code_is_importable_from_the_client(name: str) -> None:
    assert hasattr(flujo_client, name)
    assert name in flujo_client.__all__


def test_the_coordinator_is_importable_from_the_worker() -> None:
    assert flujo_worker.StepCoordinator.__name__ == "StepCoordinator"


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert flujo_client.__version__.count(".") == 2


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("PostgresBackend", "flujo_client.archive.sql", "sql"),
        ("SQLiteBackend", "flujo_client.archive.sql", "sql"),
        ("make_agent_async", "flujo_client.metering.model_agents", "pydantic-ai"),
    ],
)
def test_without_its_extra_a_name_is_importable_and_says_what_to_install_when_it_is_called(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    imported: dict[str, object] = {}

    exec("from flujo_client import *", imported)

    missing = imported[name]
    assert isinstance(missing, type)
    assert not isinstance("x", missing)
    with pytest.raises(flujo_client.ConfigurationError, match=rf"{name} needs packages .*flujo-distributed\[{extra}\]"):
        missing("x", output_type=str)
