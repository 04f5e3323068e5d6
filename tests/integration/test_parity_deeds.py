"""What steps and pipelines are made of, in process and on a worker alike: sentences of docs/parity.md, sections 1.2 and 1.3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.integration import parity_deeds
from tests.integration.conftest import Open
from tests.integration.deeds import all_done, done_in

#: What comes of each deed; of an error, how it begins.
TOLD: dict[str, Any] = {
    "fields_of_a_step": {
        "plugins": [],
        "validators": [],
        "static_invariants": [],
        "discovery_agent": None,
        "failure_handlers": [],
        "fallback_step": None,
        "usage_limits": None,
        "persist_feedback_to_context": None,
        "persist_validation_results_to": None,
        "input_": None,
        "updates_context": False,
        "validate_fields": False,
        "sink_to": None,
        "input_keys": [],
        "output_keys": [],
        "meta": {},
    },
    "a_fallback_is_not_serialised": [False, True],
    "terms_of_a_step": {
        "max_retries": 1,
        "timeout_s": None,
        "temperature": None,
        "top_k": None,
        "top_p": None,
        "preserve_fallback_diagnostics": False,
        "execution_mode": "sync",
        "expected_cost_usd": 0.0,
        "expected_tokens": 0,
    },
    "an_input_of_its_own": ["{{ context.call_count }}", "{{ context.call_count }}"],
    "declared_types": ["object", "object", "int", "str", "False"],
    "which_are_complex": [False, False, True, True, True, True, True, True],
    "run_has_no_step": "StepInvocationError: Step 'inc' has no run() or stream() of its own.",
    "stream_has_no_step": "StepInvocationError: Step 'inc' has no run() or stream() of its own.",
    "joined": [["Step inc", "Step half"], ["Step inc", "Step half", "Step shout"]],
    "said_one_after_the_other": [True, "half", [0]],
    "selected": ["Step select_count", "Step half"],
    "made_of_a_function": ["double", "twice", "int", "int", "place", 3],
    "made_of_a_mapper": ["Step double", "Step triple"],
    "decorated": ["twice", 2.5, 0, "background"],
    "adapters": {"is_adapter": True, "adapter_id": "text", "adapter_allow": "counts"},
    "an_adapter_without_its_id": "ValueError: An adapter step needs adapter_id and adapter_allow.",
    "an_adapter_without_its_token": "ValueError: An adapter step needs adapter_id and adapter_allow.",
    "fixed_names": ["Step review", "Step solution", "Step validate", 4, True, False],
    "a_question": ["HumanInTheLoopStep", "sure?", "int", "answer"],
    "a_loop": ["LoopStep", 5, 3],
    "a_refinement": [5, "refine", ["Step inc", "Step refine:capture_artifact", "Step half"], "refine_output_mapper"],
    "a_choice": ["ConditionalStep", "Pipeline", ["Step half"]],
    "a_parallel_step": {
        "branches": {"a": "Pipeline", "b": "Pipeline"},
        "merge_strategy": "context_update",
        "merge_numbers": "sum",
        "field_mapping": None,
        "context_include_keys": None,
        "on_branch_failure": "propagate",
        "reduce": None,
        "max_concurrency": None,
        "split": "even",
        "ignore_branch_names": False,
    },
    "a_router": ["DynamicParallelRouterStep", "context_update", "no_merge", "route_router"],
    "a_map": ["MapStep", "items"],
    "a_granular_step": {
        "names": ["LoopStep work", "GranularStep work_turn"],
        "max_turns": 20,
        "history_max_tokens": 128000,
        "blob_threshold_bytes": 20000,
        "enforce_idempotency": False,
        "resume_fingerprint_mode": None,
    },
    "kept": ["CacheStep", "half", None],
    "what_attachments_have": [
        {"prompt_processors": [], "output_processors": [], "validators": []},
        {"is_valid": True, "score": 1.0, "diff": None, "feedback": None, "validator_name": "", "metadata": {}},
        0.0,
        {"success": True, "feedback": None, "redirect_to": None, "new_solution": None},
    ],
    "what_is_injected": [
        [],
        ["context", "resources"],
        ["context", "resources", "temperature", "top_k", "top_p"],
        ["temperature", "top_k"],
    ],
    "asks_for_odd_resources": "ConfigurationError: The 'resources' parameter of step 'odd' must be annotated with a class of AppResources.",
    "asks_for_an_odd_context": "ConfigurationError: The 'context' parameter of step 'odd' must be annotated with a class of BaseModel.",
    "a_function_that_asks_oddly_is_made_a_step": "odd",
    "found_by_name": ["double", "Tripler", "Tripler"],
    "fields_of_a_pipeline": [[], [], [], [], ["Step inc"]],
    "joined_with_everything": [["Step inc", "Step half", "Step shout"], 1, 1, ["output > 0", "output > 1"]],
    "types_of_its_ends": ["int", "str"],
    "joined_with_an_adapter": ["Step shout", "Step double", "Step half"],
    "joined_with_a_template": ["Step shout", "Step own"],
    "joined_where_nothing_is_declared": ["Step shout", "Step anything", "Step half", "Step whatever", "Step half"],
    "joined_with_the_setting_off": ["Step shout", "Step half"],
    "its_own_steps": ["inc", "both"],
    "as_a_step": ["inner", True, False, True, "PipelineResult"],
    "options_of_a_runner": {
        "delete_on_completion": False,
        "persist_state": True,
        "pipeline_version": "latest",
        "enable_tracing": True,
        "usage_limits": None,
        "hooks": None,
        "executor_factory": None,
        "backend_factory": None,
        "state_backend": None,
    },
    "a_runner_with_a_factory": "ConfigurationError: Flujo takes no executor_factory and no backend_factory.",
    "estimates_of_steps_that_call_no_model": [True, False, False],
}


@pytest.fixture(scope="module")
def told(flujo: Open) -> dict[str, Any]:
    """What comes of all deeds, done at once."""
    return asyncio.run(all_done(flujo(parity_deeds.about_steps), TOLD))


@pytest.mark.parametrize("deed", TOLD)
def test_a_deed_ends_alike_wherever_it_is_done(told: dict[str, Any], deed: str) -> None:
    expected, output = TOLD[deed], told[deed]

    assert output.startswith(expected) if isinstance(expected, str) else output == expected


def test_every_deed_is_told() -> None:
    assert done_in(parity_deeds) == TOLD.keys()
