"""`context.step_outputs`, wherever code of the user's has a context: in process and on a worker, with the same answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flujo_client import Flujo, PipelineResult
from tests.integration import outputs_pipelines as made
from tests.integration.conftest import Fleet, Open, at_work, opener


@pytest.fixture(scope="module")
def worker_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """One manager and one worker."""
    return at_work(make_fleet("outputs", FLUJO_PIPELINES="tests.integration.outputs_pipelines"))


@pytest.fixture(params=["in process", "on a fleet"])
def flujo(request: pytest.FixtureRequest) -> Open:
    """Makes a runner of a pipeline, where the test asks."""
    return opener(request, "worker_fleet", context_model=made.Seen)


async def run(runner: Flujo, value: Any = 1) -> PipelineResult:
    async with runner:
        result = await runner.run_async(value)
    assert result.success, result.step_history[-1].feedback
    return result


async def seen(runner: Flujo, value: Any = 1) -> dict[str, Any]:
    found: dict[str, Any] = (await run(runner, value)).final_pipeline_context.seen
    return found


async def test_helpers_nested_functions_comprehensions_and_dumps_of_a_step_see_the_outputs_before_it(
    flujo: Open,
) -> None:
    result = await run(flujo(made.bodies))

    assert result.final_pipeline_context.seen == {"helper": {"page": {"text": "page 1"}, "number": 4}}
    assert [part.output for part in result.step_history[3:]] == [
        [4, 4, 5],
        "page 1",
        ["by_helper", "nested", "number", "page", "typed"],
    ]


async def test_conditions_and_their_mappers_see_them_and_what_follows_sees_into_the_branch(flujo: Open) -> None:
    places = await seen(flujo(made.conditions))

    assert places == {
        "condition": {"number": 4},
        "input mapper": {"number": 4},
        "output mapper": {"number": 4, "left": "left"},
        "last": {"number": 4, "left": "left", "fork": "left"},
    }


async def test_exit_conditions_and_mappers_of_loops_see_the_iteration_and_what_follows_the_last_one(
    flujo: Open,
) -> None:
    places = await seen(flujo(made.loops))

    assert places == {
        "exit 5": {"number": 4, "count": 5, "last": 5},
        "mapper 1": {"number": 4, "count": 5, "last": 5},
        "exit 6": {"number": 4, "count": 6, "last": 6},
        "loop output": {"number": 4, "count": 6, "last": 6},
        "last": {"number": 4, "count": 6, "last": 6, "rounds": 60},
    }


async def test_merge_functions_and_reducers_see_them_and_each_branch_its_own(flujo: Open) -> None:
    places = await seen(flujo(made.branches))

    whole = {"number": 4, "one": 1, "left": "left", "two": 2}
    assert places["branch a"] == {"number": 4, "one": 1}
    assert places["branch b"] == {"number": 4, "left": "left", "two": 2}
    assert places["merge"] == places["reduce"] == whole
    assert places["last"] == {**whole, "both": 3}


async def test_branches_with_included_fields_alone_see_nothing_before_them(flujo: Open) -> None:
    places = await seen(flujo(made.narrowed))

    assert places == {"in branch": [], "last": {"number": 4, "shielded": 2, "both": {"a": 2}}}


async def test_validators_plugins_invariants_templates_and_questions_see_them(flujo: Open) -> None:
    async with flujo(made.attached) as runner:
        paused = await runner.run_async(1)
        assert paused.final_pipeline_context.pause_message == "Is 4 right?", paused.step_history[-1].feedback
        result = await runner.resume_async(paused, "yes")

    assert result.success, result.step_history[-1].feedback
    assert result.step_history[2].output == "4"
    assert result.final_pipeline_context.seen["last"] == {"number": 4, "checked": 4, "templated": "4", "ask": "yes"}


async def test_maps_machines_and_sub_pipelines_are_seen_through_by_what_follows_them(flujo: Open) -> None:
    places = await seen(flujo(made.composites))

    assert places["when"].items() >= {"rank": 4, "item": 4, "each": [2, 4], "first": "first"}.items()
    assert sorted(places["last"]) == sorted(
        ["rank", "item", "each", "first", "left", "machine", "page", "number", "inherits"]
    )


async def test_what_steps_write_there_themselves_is_kept_and_stands_over_what_was_put_out(flujo: Open) -> None:
    result = await run(flujo(made.overwritten))

    context = result.final_pipeline_context
    assert context.seen["last"] == {"number": 40, "writes": 1, "mine": [1]}
    assert context.step_outputs.items() >= {"number": 40, "mine": [1], "last": 1}.items()


async def test_what_went_into_no_context_is_seen_by_its_composites_name_alone(flujo: Open) -> None:
    places = await seen(flujo(made.nothing_merged))

    assert places["last"] == {"both": {"a": 1, "b": "left"}, "alone": 4}
