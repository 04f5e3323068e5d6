"""Forks, as data: what is used again, what is not, and what the budget says."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import ConfigurationError, ExecutionError, Pipeline, Step, step
from flujo_client.archive.dump import RunDump
from flujo_client.execution.decision import NodeState, NodeStatus
from flujo_client.forking import fork_event, fork_of, place_of
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.spec import ConditionalSpec, PipelineSpec, SequenceSpec
from tests.unit.replay import Replay, task_of


@step
async def a(value: Any) -> Any:
    return value


@step
async def b(value: Any) -> Any:
    return value


@step
async def c(value: Any) -> Any:
    return value


def spec_of(*steps: Step[Any, Any]) -> PipelineSpec:
    return Pipeline(list(steps), name="p").to_spec()


def ended(path_usage: dict[str, int], context: tuple[str, ...] = ()) -> NodeState:
    return NodeState(status=NodeStatus.SUCCEEDED, attempt=1, usage=path_usage, context_after=context)


def a_run(spec: PipelineSpec) -> RunDump:
    return RunDump(
        spec=spec,
        record={"run_id": "r", "limits": "tokens=100", "status": "failed", "final": "1", "error": "{}", "spec": "x"},
        nodes={
            "root": NodeState(status=NodeStatus.FAILED, context=("ctx:root", "ctx:0", "ctx:2")),
            "0": ended({"tokens": 30}, ("ctx:root", "ctx:0")),
            "1": ended({}, ("ctx:root", "ctx:0")),
            "1.0.0": ended({"tokens": 5}),
            "2": NodeState(status=NodeStatus.FAILED, attempt=2, usage={"tokens": 50}),
        },
        accounts={"meters": "tokens", "root|tokens": "100 0 85 0 0 0 0 0 0 0", "total|tokens": "85"},
        payloads={"input": 1, "ctx:root": {}, "out:0": 2, "out:1.0.0": 3, "ctx:1!merge": {}, "out:2": 4, "result": {}},
    )


SPEC = spec_of(a, Step.parallel("both", {"x": a}), c)


def test_a_fork_has_what_was_paid_before_its_first_step_and_no_more() -> None:
    fork = fork_of(a_run(SPEC), SPEC, "2", "f", 5)

    assert set(fork.nodes) == {"root", "0", "1", "1.0.0"}
    assert fork.nodes["root"] == NodeState(status=NodeStatus.RUNNING, context=("ctx:root", "ctx:0"))
    assert set(fork.payloads) == {"input", "ctx:root", "out:0", "out:1.0.0", "ctx:1!merge"}
    assert fork.accounts == {
        "meters": "tokens",
        "life|root": "1 0 open",  # as create_run begins
        "total|tokens": "35",
        "forked|tokens": "35",
        "root|tokens": "100 0 35 0 0 0 0 0 0 0",
    }
    (account,) = read_accounts(fork.accounts)
    assert (account.granted, account.spent, account.free) == (100, 35, 65)
    assert (fork.record["run_id"], fork.record["forked_from"], fork.record["created_ms"]) == ("f", "r", "5")
    assert not {"final", "error"} & fork.record.keys()
    assert fork_event(fork, "2") == ("succeeded", "1", 1, "forked from r")


def test_a_fork_from_the_first_step_is_a_new_run() -> None:
    fork = fork_of(a_run(SPEC), SPEC, "0", "f", 5)

    assert set(fork.nodes) == {"root"}
    assert [row.spent for row in read_accounts(fork.accounts)] == [0]
    assert fork_event(fork, "0") == ("created", "root", 0, "")


def test_a_newer_pipeline_may_differ_from_the_first_step_on() -> None:
    newer = spec_of(a, Step.parallel("both", {"x": a}), b, b)

    assert fork_of(a_run(SPEC), newer, "2", "f", 5).record["spec"] == newer.content_hash
    with pytest.raises(ConfigurationError, match="Step 2 'b' of pipeline 'p' is not what run r ran there"):
        fork_of(a_run(SPEC), newer, "3", "f", 5)


def test_what_has_not_succeeded_cannot_be_used_again() -> None:
    longer = spec_of(a, Step.parallel("both", {"x": a}), c, b)

    with pytest.raises(ExecutionError, match="step 2 'c' has not succeeded"):
        fork_of(a_run(longer), longer, "3", "f", 5)


def test_a_step_is_named_or_numbered() -> None:
    spec = spec_of(a, b, a)

    assert (place_of(spec, "b"), place_of(spec, "2")) == ("1", "2")
    with pytest.raises(ConfigurationError, match="several steps 'a'; it has: 0 a, 1 b, 2 a"):
        place_of(spec, "a")
    with pytest.raises(ConfigurationError, match="no step 'x'"):
        place_of(spec, "x")
    with pytest.raises(ConfigurationError):
        place_of(spec, "3")


def test_a_dump_knows_what_was_under_way() -> None:
    run = a_run(SPEC).model_copy(
        update={
            "attempts": {
                "0|attempt": "1",
                "0|state": "leased",
                "0|nonce": "n0",
                "1.0.0|attempt": "2",
                "1.0.0|state": "dispatched",
                "1.0.0|nonce": "",
                "2|attempt": "1",
                "2|state": "blocked",
                "3|attempt": "1",
                "3|state": "closed",
                "3|nonce": "n3",
            }
        }
    )

    assert [(claim.path, claim.nonce, claim.attempt) for claim in run.held()] == [("0", "n0", 1)]
    assert run.unleased() == [("1.0.0", 2), ("2", 1)]


_PLAIN = Pipeline(
    [
        a,
        Step.branch_on("which", lambda value, context: True, {True: b >> c >> b, False: c >> b}),
        (b >> c).as_step("inner", inherit_context=True),
        Step.loop_until("again", c.model_copy(update={"name": "looped"}), lambda value, context: True),
    ],
    name="p",
).to_spec()
NESTED = _PLAIN.model_copy(
    update={"root": _PLAIN.root.with_steps(lambda leaf: leaf.model_copy(update={"uses_context": True}))}
)


class TestInsideComposites:
    @pytest.mark.parametrize(
        ("step", "path"),
        [("a", "0"), ("which", "1"), ("2.0.1", "2.0.1"), ("1.0.2", "1.0.2"), ("1.0.0", "1"), ("2.0.0", "2")],
    )
    def test_a_step_may_stand_in_a_conditional_or_a_sub_pipeline(self, step: str, path: str) -> None:
        assert place_of(NESTED, step) == path

    @pytest.mark.parametrize("step", ["looped", "x"])
    def test_what_runs_again_and_again_is_no_place_and_the_error_says_where_else(self, step: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            place_of(NESTED, step)

        assert ("Fork from 'again'" in str(raised.value)) == (step == "looped")

    @staticmethod
    def _run() -> RunDump:
        """Everything ran, each step added to the context."""
        run = Replay(*NESTED.root.nodes, has_context=True)
        run.succeed("0", context="delta", usage="tokens=1")
        run.decided("1!choose", branch=0, key=True)
        for path in ("1.0.0", "1.0.1", "1.0.2", "2.0.0", "2.0.1"):
            run.succeed(path, context="delta", usage="tokens=10")
        payloads: dict[str, Any] = {name: {} for path in run.nodes for name in (f"out:{path}", f"ctx:{path}")}
        record = {"run_id": "r", "limits": "tokens=100", "status": "running", "spec": "x"}
        return RunDump(
            spec=NESTED, record=record, nodes=run.nodes, accounts={}, payloads={"input": 1, "ctx:root": {}, **payloads}
        )

    def _fork(self, start: str) -> tuple[RunDump, Replay]:
        fork = fork_of(self._run(), NESTED, start, "f", 5)
        again = Replay(*NESTED.root.nodes, has_context=True)
        again.nodes = dict(fork.nodes)
        _, path, attempt, _ = fork_event(fork, start)
        assert attempt == fork.nodes[path].attempt
        again.succeed(path)
        return fork, again

    def test_it_goes_on_with_what_the_branch_had_done(self) -> None:
        fork, again = self._fork("1.0.2")

        task = task_of(again.last)
        assert again.dispatched() == [("1.0.2", 1)]
        assert (task.expression, task.context) == ("out:1.0.1", ("ctx:root", "ctx:0", "ctx:1.0.0", "ctx:1.0.1"))
        assert {"1.0.0", "1.0.1", "1!choose", "0"} < set(fork.nodes)
        assert "1.0.2" not in fork.nodes
        assert sum(node.usage.get("tokens", 0) for node in fork.nodes.values()) == 21
        again.succeed("1.0.2", context="delta")
        assert task_of(again.last).context == ("ctx:root", "ctx:0", "ctx:1.0.0", "ctx:1.0.1", "ctx:1.0.2")

    def test_it_goes_on_in_a_sub_pipeline(self) -> None:
        fork, again = self._fork("2.0.1")

        assert again.dispatched() == [("2.0.1", 1)]
        assert task_of(again.last).context[-1] == "ctx:2.0.0"
        assert fork.nodes["1"].status is NodeStatus.SUCCEEDED
        again.succeed("2.0.1")
        assert again.dispatched() == [("3.0.0", 1)]

    def test_a_branch_that_was_not_taken_has_nothing_to_go_on_with(self) -> None:
        with pytest.raises(ExecutionError, match="took another branch"):
            fork_of(self._run(), NESTED, "1.1.1", "f", 5)

    def test_what_stands_around_the_step_must_be_the_same_and_what_follows_need_not(self) -> None:
        def other(*nodes: Any) -> PipelineSpec:
            return NESTED.model_copy(update={"root": SequenceSpec(nodes=nodes)})

        first, which, inner, _ = NESTED.root.nodes
        assert isinstance(which, ConditionalSpec)
        shorter = which.model_copy(
            update={"branches": (SequenceSpec(nodes=which.branches[0].nodes[:2]), which.branches[1])}
        )
        assert fork_of(self._run(), other(first, shorter, inner), "1.0.1", "f", 5).nodes
        for changed in (which.model_copy(update={"condition": "m:other"}), inner):
            with pytest.raises(ConfigurationError, match="Step 1 "):
                fork_of(self._run(), other(first, changed), "1.0.1", "f", 5)
