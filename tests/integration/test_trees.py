"""Every composite inside every other one, and random pipelines: what they give is what a small interpreter says."""

from __future__ import annotations

import asyncio
import os
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from flujo_client import Flujo, Pipeline, PipelineResult, RunStatus, StepResult, UsageLimits
from flujo_client.protocol.accounts import AccountRow, read_accounts
from tests.integration.conftest import Fleet, account_fields
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
    Nested,
    Par,
    Picked,
    Refine,
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
        st.builds(Refine, inner),
        st.builds(Picked, st.lists(inner, min_size=1, max_size=2).map(tuple)),
        st.builds(Nested, inner),
    ),
    max_leaves=8,
)


def _run(tree: Any) -> PipelineResult:
    async def run() -> PipelineResult:
        async with Flujo(as_pipeline(tree, "tree"), context_model=Counter) as flujo:
            return await _answered(flujo)

    return asyncio.run(run())


async def _answered(flujo: Flujo, run_id: str | None = None) -> PipelineResult:
    """Run, and answer whatever is asked, one question after the other. In process only runs with an id are kept."""
    result = await flujo.run_async(START, run_id=run_id)
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


#: What differs from run to run, or stands in a nested result besides what its steps gave.
_OF_ONE_RUN = {"latency_s", "run_id", "timestamp", "background_task_id", "trace_tree", "final_pipeline_context"}


def _plain(value: Any) -> Any:
    """A value as JSON values, as a fleet has what is on the way between its steps; without what differs from run to run."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items() if name not in _OF_ONE_RUN}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str) and value.startswith("Launched in background"):
        return "launched"
    plain = to_jsonable_python(value)
    return plain if plain is value or not isinstance(plain, dict | list) else _plain(plain)


def _shape(part: StepResult) -> tuple[Any, ...]:
    metadata = _plain(part.metadata_)
    history = [_shape(inner) for inner in part.step_history]
    feedback = _plain(part.feedback)
    return (part.name, part.success, _plain(part.output), part.attempts, part.token_counts, feedback, metadata, history)


@pytest.fixture(scope="module")
def tree_fleet(make_fleet: Any) -> Fleet:
    """Workers that have the sample."""
    made: Fleet = make_fleet("trees", FLUJO_PIPELINES="tests.integration.tree_pipelines")
    made.manager()
    made.worker()
    made.worker()
    return made


#: Far more than any tree uses, and more than the smallest share of it: what runs is the same in any interleaving.
_ENOUGH = UsageLimits(total_tokens_limit=10**9)

#: Where a split in the background holds the whole budget: steps beside it that expect nothing have nothing (docs/budgets.md).
_UNLIMITED = {"parallel-in-background", "gather-in-background"}

#: Random trees that a fleet runs. `make test` runs the same few each time; with TEST_TREES=300 there are so many, and new ones.
_QUEUED = int(os.environ.get("TEST_TREES", "0"))


def _compare(fleet: Fleet, tree: Any, name: str) -> None:
    pipeline = as_pipeline(tree, name)
    limits = None if name in _UNLIMITED else _ENOUGH
    queued, queued_accounts = asyncio.run(_with_accounts(pipeline, usage_limits=limits, settings=fleet.settings()))
    here, accounts_here = asyncio.run(_with_accounts(pipeline, usage_limits=limits))

    _check(tree, queued)
    assert [_shape(part) for part in queued.step_history] == [_shape(part) for part in here.step_history]
    assert (queued.status, queued.output) == (here.status, here.output)
    assert _told(queued.final_pipeline_context) == _told(here.final_pipeline_context)
    assert queued.usage == here.usage
    assert queued_accounts == accounts_here
    if limits is not None:
        assert queued_accounts[0].account == "root"
        assert queued_accounts[0].use == queued.usage.get("tokens", 0)


async def _with_accounts(pipeline: Pipeline, **options: Any) -> tuple[PipelineResult, list[AccountRow]]:
    """A run's result, and every account of it as it stands at the end."""
    flujo, run_id = Flujo(pipeline, context_model=Counter, **options), uuid4().hex
    async with flujo:
        result = await _answered(flujo, run_id)
        return result, read_accounts(await account_fields(flujo, run_id))


@pytest.mark.parametrize("name", SAMPLE)
def test_a_fleet_gives_what_this_process_gives(tree_fleet: Fleet, name: str) -> None:
    _compare(tree_fleet, SAMPLE[name], name)


@pytest.mark.timeout(120 + 10 * _QUEUED)
@settings(
    max_examples=_QUEUED or 15,
    derandomize=not _QUEUED,
    database=None,
    phases=[Phase.generate] + [Phase.shrink] * bool(_QUEUED),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=_TREES)
def test_a_fleet_gives_for_any_pipeline_what_this_process_gives(tree_fleet: Fleet, tree: Any) -> None:
    _compare(tree_fleet, tree, "tree")


def _told(context: Any) -> dict[str, Any]:
    """A context without what differs from run to run."""
    return dict(_plain(context.model_dump(mode="json")))
