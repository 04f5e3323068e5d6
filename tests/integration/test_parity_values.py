"""What results, contexts, budgets, types and errors are, in process and on a worker alike: sentences of docs/parity.md, sections 1.6 to 1.14."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration import parity_values
from tests.integration.conftest import Open
from tests.integration.deeds import all_done, done_in

#: What comes of each deed; of an error, how it begins.
TOLD: dict[str, Any] = {
    "fields_of_a_step_result": [
        {
            "name": "x",
            "output": None,
            "success": True,
            "attempts": 0,
            "latency_s": 0.0,
            "token_counts": 0,
            "cost_usd": 0.0,
            "feedback": None,
            "branch_context": None,
            "metadata_": {},
            "step_history": [],
        },
        {"a": 1},
    ],
    "fields_of_a_pipeline_result": [
        {
            "step_history": [],
            "total_cost_usd": 0.0,
            "total_tokens": 0,
            "final_pipeline_context": None,
            "trace_tree": None,
            "success": True,
        },
        7,
        {"of_ones_own": 5},
    ],
    "fields_of_a_context": {
        "run_id": "",
        "initial_prompt": None,
        "status": "running",
        "pause_message": None,
        "paused_step_input": None,
        "user_input": None,
        "hitl_data": {},
        "hitl_history": [],
        "command_log": [],
        "conversation_history": [],
        "step_outputs": {},
        "current_state": None,
        "next_state": None,
        "loop_iteration_index": None,
        "loop_step_index": None,
        "loop_last_output": None,
        "loop_resume_requires_hitl_output": False,
        "loop_paused_step_name": None,
        "granular_state": None,
        "tree_search_state": None,
        "is_background_task": False,
        "task_id": None,
        "parent_run_id": None,
        "background_error": None,
        "background_error_category": None,
        "import_artifacts": {},
        "call_count": 0,
        "solution": None,
        "checklist": None,
    },
    "what_a_context_does_not_dump": [[1], False],
    "what_may_be_set_on_a_context": {"unheard_of": 5},
    "a_scratchpad_given": "ValidationError: 1 validation error for PipelineContext",
    "a_scratchpad_set": "ValueError: a context has no 'scratchpad': declare a field for what it is to hold",
    "what_of_a_reference_is_serialised": {
        "dumped": {"provider_id": "shelf", "key": "atlas"},
        "held": "a thousand pages",
    },
    "limits_below_zero": "ConfigurationError: UsageLimits cannot be made: total_tokens_limit: Input should be greate",
    "costs_below_zero": "ConfigurationError: UsageLimits cannot be made: total_cost_usd_limit: Input should be grea",
    "limits_and_estimates_of_nothing": [None, None, 0.0, 0],
    "what_is_left": [[1.0, 10], "inf", 2147483647],
    "what_would_be_enough": [True, False, False, True, True],
    "all_or_nothing": [False, [1.0, 10]],
    "just_what_is_left": [True, [0.0, 0], True],
    "from_what_has_no_end": [True, ["inf", "6"]],
    "less_than_was_reserved": [[0.9, 9], [0.7, 7]],
    "more_than_is_left": [[0.0, 5], [0.6, 6, 2.6, 0]],
    "put_back": [[1.5, 10], ["inf", "2"]],
    "split_in_three": [[4, 3, 3], 1.0, [0.0, 0]],
    "split_what_has_no_end": ["inf", "inf", "inf"],
    "anything_fits_what_declares_nothing": [True, True, True, True, True, True],
    "one_member_of_a_union_is_enough": [True, True, False],
    "none_fits_where_it_is_declared": [True, True, True, False, False],
    "a_subclass_fits_and_no_other_class": [True, True, False, False],
    "generics_fit_by_what_they_hold": [True, True, True, True, True, False, False, False, False],
    "without_a_next_step": "text",
    "fields_of_a_workflow_state": [
        "background_error",
        "created_at",
        "current_step_index",
        "error_message",
        "is_background_task",
        "last_step_output",
        "metadata",
        "parent_run_id",
        "pipeline_context",
        "pipeline_id",
        "pipeline_name",
        "pipeline_version",
        "run_id",
        "status",
        "step_history",
        "task_id",
        "updated_at",
    ],
    "fields_of_an_answer": ["message_to_human", "human_response", "timestamp"],
    "versions_of_a_pipeline": ["1.10", True, None, None],
    "a_version_that_is_none": "ValueError: 'newest' is no version of PEP 440, such as 1.2.0 or 2.0rc1.",
    "what_an_error_says": ["It broke.", "Mend it.", "E7", True],
    "errors_of_configuration": [
        "FeatureDisabled",
        "HitlPolicyError",
        "MissingAgentError",
        "PricingNotConfiguredError",
        "RewardModelUnavailable",
        "SettingsError",
        "UnknownAccountError",
        "UnknownPipelineError",
        "UnqueueableError",
        "UnsafeRedisError",
    ],
    "errors_of_execution": [
        "AgentIOValidationError",
        "GranularResumeError",
        "ImproperStepInvocationError",
        "NonRetryableError",
        "OrchestratorRetryError",
        "ParallelStepError",
        "PayloadError",
        "PluginError",
        "ReplayError",
        "ResultTimeoutError",
        "ResumeError",
        "RunCancelledError",
        "RunConflictError",
        "RunFailedError",
        "RunNotFoundError",
        "StepInvocationError",
        "UsageLimitExceededError",
    ],
    "errors_of_control_flow": [
        "HookFailedError",
        "InfiniteFallbackError",
        "InfiniteRedirectError",
        "PausedException",
        "PipelineAbortSignal",
    ],
    "errors_of_contexts": [
        "ContextFieldError",
        "ContextInheritanceError",
        "ContextIsolationError",
        "ContextMergeError",
        "ContextMutationError",
        "PipelineContextInitializationError",
    ],
    "errors_of_validation": [
        "InvariantViolatedError",
        "OutputRejectedError",
        "PipelineValidationError",
        "TemplateResolutionError",
        "TypeMismatchError",
        "UsageAmountError",
    ],
    "errors_that_stand_apart": [False, False],
    "what_a_pause_says": ["sure?", "sure?"],
    "what_a_limit_says": ["Insufficient quota", True, None],
    "pickled_errors": [
        ["PricingNotConfiguredError", True, {"provider": "openai", "model": "gpt-9"}],
        [
            "ContextInheritanceError",
            True,
            {"missing_fields": ["a"], "parent_context_keys": ["b"], "child_model_name": "Needy"},
        ],
        ["StepInvocationError", True, {"step": "inc"}],
        ["PausedException", True, {}],
        ["FlujoError", True, {}],
    ],
}


@pytest.fixture(scope="module")
def told(flujo: Open) -> dict[str, Any]:
    """What comes of all deeds, done at once."""
    return asyncio.run(all_done(flujo(parity_values.about_values), TOLD))


@pytest.mark.parametrize("deed", TOLD)
def test_a_deed_ends_alike_wherever_it_is_done(told: dict[str, Any], deed: str) -> None:
    expected, output = TOLD[deed], told[deed]

    assert output.startswith(expected) if isinstance(expected, str) else output == expected


def test_every_deed_is_told() -> None:
    assert done_in(parity_values) == TOLD.keys()
