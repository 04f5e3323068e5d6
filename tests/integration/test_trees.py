"""Every composite inside every other one, and random pipelines: what they give is what a small interpreter says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flujo_client import Flujo, PipelineResult, RunStatus, StepResult
from tests.integration.conftest import Fleet
from tests.integration.trees import (
    ANSWER,
    LEAVES,
    MATRIX,
    PAUSING,
    SAMPLE,
    START,
    Behind,
    Cond,
    Counter,
    Interpreter,
    Kept,
    Loop,
    Machine,
    Map,
    Par,
    Route,
    Seq,
    Sub,
    as_pipeline,
)

_TREES = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(Seq, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(
            Par,
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            ignore=st.booleans(),
            merge=st.booleans(),
            at_once=st.sampled_from([None, 1, 2]),
        ),
        st.builds(Loop, inner, st.sampled_from([5, 10])),
        st.builds(Cond, inner, inner),
        st.builds(Machine, inner, inner, inner),
        st.builds(Map, inner, st.sampled_from(["fail", "none", "skip"])),
        st.builds(Route, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Sub, inner, st.booleans()),
        st.builds(Behind, inner),
        st.builds(Kept, inner),
    ),
    max_leaves=8,
)


def _run(tree: Any) -> PipelineResult:
    return asyncio.run(_run_answering(Flujo(as_pipeline(tree, "tree"), context_model=Counter)))


async def _run_answering(flujo: Flujo) -> PipelineResult:
    """Run, and answer whatever is asked, one question after the other."""
    async with flujo:
        result = await flujo.run_async(START)
        while result.status is RunStatus.PAUSED:
            result = await flujo.resume_async(result, ANSWER)
        return result


def _check(tree: Any, result: PipelineResult) -> None:
    interpreter = Interpreter()
    expected = interpreter.run(Seq((tree,)), START, 0)
    assert result.status is (RunStatus.COMPLETED if expected.ok else RunStatus.FAILED), result.step_history
    if expected.ok:
        assert result.output == expected.value
    assert result.final_pipeline_context.counter == expected.counter
    assert result.total_tokens == interpreter.tokens
    assert result.usage.get("tokens", 0) == interpreter.tokens  # what the accounts say
    if interpreter.questions:
        assert len(result.final_pipeline_context.hitl_history) <= interpreter.questions


@pytest.mark.parametrize("place", MATRIX, ids="-".join)
def test_each_composite_works_inside_each_other(place: tuple[str, str]) -> None:
    _check(MATRIX[place], _run(MATRIX[place]))


@pytest.mark.parametrize("place", PAUSING, ids="-".join)
def test_a_run_may_pause_in_each_composite_inside_each_other(place: tuple[str, str]) -> None:
    _check(PAUSING[place], _run(PAUSING[place]))


@settings(max_examples=60, deadline=None)
@given(_TREES)
def test_any_pipeline_gives_what_the_interpreter_says(tree: Any) -> None:
    _check(tree, _run(tree))


def _shape(part: StepResult) -> tuple[Any, ...]:
    metadata = {key: value for key, value in part.metadata_.items() if key != "background_task_id"}
    history = [_shape(inner) for inner in part.step_history]
    feedback = "launched" if "background_task_id" in part.metadata_ else part.feedback
    return (part.name, part.success, part.output, part.attempts, part.token_counts, feedback, metadata, history)


@pytest.fixture(scope="module")
def tree_fleet(make_fleet: Any) -> Fleet:
    """Workers that have the sample."""
    made: Fleet = make_fleet("trees", FLUJO_PIPELINES="tests.integration.tree_pipelines")
    made.manager()
    made.worker()
    made.worker()
    return made


@pytest.mark.parametrize("name", SAMPLE)
async def test_a_fleet_gives_what_this_process_gives(tree_fleet: Fleet, name: str) -> None:
    pipeline = as_pipeline(SAMPLE[name], name)
    queued = await _run_answering(Flujo(pipeline, context_model=Counter, settings=tree_fleet.settings()))
    here = await _run_answering(Flujo(pipeline, context_model=Counter))

    _check(SAMPLE[name], queued)
    assert [_shape(part) for part in queued.step_history] == [_shape(part) for part in here.step_history]
    assert _told(queued.final_pipeline_context) == _told(here.final_pipeline_context)
    assert queued.usage == here.usage


def _told(context: Any) -> dict[str, Any]:
    """A context without what differs from run to run."""
    told = context.model_dump(mode="json", exclude={"run_id"})
    for turn in told["hitl_history"]:
        del turn["timestamp"]
    return dict(told)
