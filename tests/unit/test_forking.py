"""Forks, as data: what is used again, what is not, and what the budget says."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import ConfigurationError, ExecutionError, Pipeline, Step, step
from flujo_client.archive.dump import RunDump
from flujo_client.execution.decision import Decision, NodeState, NodeStatus
from flujo_client.execution.paths import control_of, lineage_of, node_of, order_of
from flujo_client.execution.reuse import reuse_before
from flujo_client.forking import fork_of, place_of
from flujo_client.protocol.accounts import read_accounts
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import CacheSpec, PipelineSpec, StepSpec, TransitionSpec
from tests.unit.replay import (
    Replay,
    background,
    conditional,
    loop,
    machine,
    map_over,
    parallel,
    router,
    sequence,
    sub_pipeline,
)
from tests.unit.replay import step as step_spec


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
    return NodeState(status=NodeStatus.SUCCEEDED, attempt=1, usage=path_usage, wrote=context)


def a_run(spec: PipelineSpec) -> RunDump:
    return RunDump(
        spec=spec,
        record={"run_id": "r", "limits": "tokens=100", "status": "failed", "final": "1", "error": "{}", "spec": "x"},
        nodes={
            "root": NodeState(status=NodeStatus.FAILED, context=("ctx:root", "ctx:0", "ctx:2")),
            "0": ended({"tokens": 30}, ("ctx:0",)),
            "1": NodeState(status=NodeStatus.SUCCEEDED, split=True, opened=1),
            "1.0.0": ended({"tokens": 5}),
            "2": NodeState(status=NodeStatus.FAILED, attempt=2, usage={"tokens": 50}),
        },
        accounts={"meters": "tokens", "root|tokens": "100 0 85 0 0 0 0 0 0 0", "total|tokens": "85"},
        payloads={"input": 1, "ctx:root": {}, "out:0": 2, "out:1.0.0": 3, "out:2": 4, "result": {}},
    )


SPEC = spec_of(a, Step.parallel("both", {"x": a}), c)


def test_a_fork_has_what_was_paid_before_its_first_step_and_no_more() -> None:
    fork, events = fork_of(a_run(SPEC), SPEC, "2", "f", 5)

    assert set(fork.nodes) == {"root", "0", "1", "1.0", "1.0.0"}
    assert fork.nodes["root"] == NodeState(status=NodeStatus.RUNNING, context=("ctx:root", "ctx:0"))
    assert set(fork.payloads) == {"input", "ctx:root", "out:0", "out:1.0.0"}
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
    assert events == [("created", "2", 0, "forked from r")]


def test_a_fork_from_the_first_step_is_a_new_run() -> None:
    fork, events = fork_of(a_run(SPEC), SPEC, "0", "f", 5)

    assert set(fork.nodes) == {"root"}
    assert [row.spent for row in read_accounts(fork.accounts)] == [0]
    assert events == [("created", "0", 0, "forked from r")]


def test_a_newer_pipeline_may_differ_from_the_first_step_on() -> None:
    newer = spec_of(a, Step.parallel("both", {"x": a}), b, b)

    assert fork_of(a_run(SPEC), newer, "2", "f", 5)[0].record["spec"] == newer.content_hash
    with pytest.raises(ConfigurationError, match="Step 2 'b' of pipeline 'p' is not what run r ran there: it differs"):
        fork_of(a_run(SPEC), newer, "3", "f", 5)


def test_what_has_not_succeeded_cannot_be_used_again() -> None:
    longer = spec_of(a, Step.parallel("both", {"x": a}), c, b)

    with pytest.raises(ExecutionError, match="step 2 'c' has not succeeded"):
        fork_of(a_run(longer), longer, "3", "f", 5)


def test_a_step_is_named_or_numbered() -> None:
    spec = spec_of(a, b, a)

    assert (place_of(a_run(spec), spec, "b"), place_of(a_run(spec), spec, "2")) == ("1", "2")
    with pytest.raises(ConfigurationError, match="several steps 'a' at 0, 2; it has: 0 a, 1 b, 2 a"):
        place_of(a_run(spec), spec, "a")
    with pytest.raises(ConfigurationError, match="no step 'x'"):
        place_of(a_run(spec), spec, "x")
    with pytest.raises(ConfigurationError):
        place_of(a_run(spec), spec, "3")


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


class Worker:
    """Ends whatever a run dispatches, the same way wherever and whenever: each step adds to the context and costs ten tokens."""

    def __init__(self, run: Replay) -> None:
        self.run = run
        self.done: list[str] = []
        self.failing: dict[str, dict[str, Any]] = {}
        self.held: set[str] = set()

    def work(self, decision: Decision) -> Worker:
        waiting = [dispatch.path for dispatch in decision.dispatches]
        while waiting:
            path = waiting.pop(0)
            if path in self.held:
                continue
            self.done.append(path)
            control, number = control_of(path)
            if path in self.failing:
                decided = self.run.fail(path, False)
            elif not control:
                decided = self.run.succeed(path, context="delta", usage="tokens=10")
            else:
                verdicts: dict[str, dict[str, Any]] = {
                    "choose": {"branch": 0, "key": True},
                    "items": {"count": 4},
                    "pick": {"names": ["x", "z"]},
                    "launch": {"task_id": "t"},
                    "lookup": {"hit": False, "key": "k"},
                    "next": {"exit": number >= 2, "to": "b" if number == 0 else None},
                }
                text = json_bytes({"verdict": verdicts.get(control, {})}).decode()
                form = {"context": "snapshot"} if control in ("merge", "gather") else {}
                decided = self.run.happen(EventKind.SUCCEEDED, path, data=text, **form)
            waiting += [dispatch.path for dispatch in decided.dispatches]
        return self


def reads(name: str) -> StepSpec:
    return step_spec(name, uses_context=True)


def dump_of(run: Replay) -> RunDump:
    payloads: dict[str, Any] = {name: {} for path in run.nodes for name in (f"out:{path}", f"ctx:{path}")}
    record = {"run_id": "r", "limits": "tokens=1000", "status": "running", "spec": "x"}
    return RunDump(spec=run.spec, record=record, nodes=run.nodes, payloads={"input": 1, "ctx:root": {}, **payloads})


def forked(run: Replay, start: str, spec: PipelineSpec | None = None, **reply: Any) -> Worker:
    """A run's fork, driven to its end."""
    fork, events = fork_of(dump_of(run), spec or run.spec, start, "f", 5)
    again = Replay(*(spec or run.spec).root.nodes, has_context=True)
    again.nodes, worker = dict(fork.nodes), Worker(again)
    worker.failing, worker.held = reply.get("failing", {}), reply.get("held", set())
    decided = [again.happen(EventKind(kind), path) for kind, path, _, _ in events]
    for decision in decided:
        worker.work(decision)
    return worker


CONTAINERS: dict[str, Any] = {
    "parallel": parallel(sequence(reads("a"), reads("b")), sequence(reads("c"), reads("d"))),
    "narrow": parallel(sequence(reads("a"), reads("b")), reads("c"), reads("d"), max_concurrency=1),
    "included": parallel(sequence(reads("a"), reads("b")), reads("c"), context_include_keys=("k",)),
    "loop": loop(reads("a"), reads("b")),
    "map": map_over(reads("a"), reads("b"), max_concurrency=1),
    "router": router("x", "y", "z"),
    "machine": machine("a", "b", "c"),
    "conditional": conditional((True, False), sequence(reads("a"), reads("b")), reads("c"), output_mapper="m:o"),
    "sub-pipeline": sub_pipeline(reads("a"), reads("b")),
    "result": sub_pipeline(reads("a"), reads("b"), gives_result=True),
    "background": background(reads("a"), reads("b")),
    "cached": CacheSpec(name="cached", body=sequence(reads("a"), reads("b")), ttl_ms=1, lease_ms=1),
    "loop of branches": loop(reads("a"), parallel(sequence(reads("b"), reads("c")), reads("d"))),
    "branches of loops": parallel(loop(reads("a"), reads("b")), loop(reads("c"))),
    "map of branches": map_over(parallel(reads("a"), sequence(reads("b"), reads("c")))),
}


def whole(kind: str) -> Worker:
    run = Replay(reads("first"), CONTAINERS[kind], reads("last"), has_context=True)
    return Worker(run).work(run.last)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_fork_from_any_node_ends_as_the_run_did_and_runs_again_only_what_depends_on_it(kind: str) -> None:
    first = whole(kind)
    assert first.run.status is RunStatus.COMPLETED
    places = [path for path in first.run.nodes if "!" not in path and path != "root"]
    places = [path for path in places if first.run.spec.node(path).kind != "sequence"]

    for start in places:
        fork = forked(first.run, start)

        assert fork.run.status is RunStatus.COMPLETED, start
        assert fork.run.nodes == first.run.nodes, start
        assert len(fork.done) == len(set(fork.done)), start
        assert set(fork.done) == {path for path in first.done if _depends(first.run, path, start)}, start
    assert len(places) > 3


def _depends(run: Replay, path: str, start: str) -> bool:
    """Whether a step of a run that has ended needs what a node gives, by what composites are: in it, or behind it."""
    if start in lineage_of(path):
        return True
    node, (control, number) = node_of(path), control_of(path)
    above = next(place for place in lineage_of(node) if place in lineage_of(start))  # the innermost around both
    spec = run.spec.node(above)
    if control and above == node:  # a control step of a composite around it
        into = order_of(start)[len(order_of(node))]
        after = {"next": number >= into, "pick": into == 0}
        return after.get(control, control in ("merge", "gather", "output", "store", "result"))
    mine, its = order_of(node)[len(order_of(above))], order_of(start)[len(order_of(above))]
    if spec.kind in ("parallel", "map"):
        return False
    behind = spec.kind == "sequence" and spec.child(its).kind == "background" and "." in start
    return mine > its and not behind


class TestFailures:
    """Two branches of two steps each; `b0` is forked."""

    @staticmethod
    def _run(failing: dict[str, dict[str, Any]], **terms: Any) -> Worker:
        branches = parallel(sequence(reads("a"), reads("b")), sequence(reads("c"), reads("d")), **terms)
        run = Replay(reads("first"), branches, reads("last"), has_context=True)
        worker = Worker(run)
        worker.failing = failing
        return worker.work(run.last)

    def test_what_failed_beside_it_runs_again_and_what_that_had_committed_does_not(self) -> None:
        first = self._run({"1.0.1": {}, "1.1.1": {}})
        assert first.run.status is RunStatus.FAILED

        fork = forked(first.run, "1.0.1")

        assert fork.run.status is RunStatus.COMPLETED
        assert fork.done == ["1.0.1", "1.1.1", "1!merge", "2"]

    def test_a_failure_that_was_ignored_before_it_stands(self) -> None:
        first = self._run({"1.1.1": {}}, on_branch_failure="ignore")

        fork = forked(first.run, "2")

        assert fork.done == ["2"]
        assert fork.run.nodes == first.run.nodes
        assert fork.run.nodes["1"].failed == {1: "1.1.1"}

    def test_one_that_fails_again_fails_the_fork(self) -> None:
        assert forked(self._run({}).run, "1.0.0", failing={"1.0.0": {}}).run.status is RunStatus.FAILED

    def test_what_was_under_way_beside_it_goes_on_where_it_was(self) -> None:
        run = Replay(parallel(sequence(reads("a"), reads("b")), sequence(reads("c"), reads("d"))), has_context=True)
        under_way = Worker(run)
        under_way.held = {"0.1.1"}
        under_way.work(run.last)

        fork = forked(run, "0.0.1")

        assert fork.done == ["0.0.1", "0.1.1", "0!merge"]
        assert fork.run.status is RunStatus.COMPLETED

    @pytest.mark.parametrize(
        ("kind", "held"),
        [
            ("parallel", "0.0.0!merge"),
            ("included", "0.0.0!enter"),
            ("loop", "0.0.0!next.1"),
            ("map", "0.0.0!items"),
            ("map", "0.0.0!gather.0"),
            ("router", "0.0.0!pick"),
            ("machine", "0.0.0!next.0"),
            ("conditional", "0.0.0!choose"),
            ("conditional", "0.0.0!output"),
            ("result", "0.0.0!result"),
            ("background", "0.0.0!launch"),
            ("cached", "0.0.0!lookup"),
            ("cached", "0.0.0!store"),
        ],
    )
    def test_a_control_step_that_was_under_way_is_made_again(self, kind: str, held: str) -> None:
        nodes = parallel(sequence(CONTAINERS[kind], reads("then")), reads("beside"))
        whole_run = Replay(nodes, has_context=True)
        Worker(whole_run).work(whole_run.last)
        run = Replay(nodes, has_context=True)
        under_way = Worker(run)
        under_way.held = {held}
        under_way.work(run.last)

        fork = forked(run, "0.1.0")

        assert {"0.1.0", held, "0.0.1"} <= set(fork.done)
        assert not set(fork.done) - {"0.1.0"} & set(under_way.done)
        assert fork.run.nodes == whole_run.nodes

    def test_a_state_that_failed_and_was_left_stands(self) -> None:
        edge = TransitionSpec(source="a", on="failure", target="c")
        run = Replay(machine("a", "b", "c", ends=("c",), transitions=(edge,)), reads("last"), has_context=True)
        worker = Worker(run)
        worker.failing = {"0.0.0": {}}
        assert worker.work(run.last).done == ["0.0.0", "0!next.0", "0.4.0", "0!next.4", "1"]

        fork = forked(run, "0.4.0")

        assert fork.done == ["0.4.0", "0!next.4", "1"]
        assert fork.run.nodes == run.nodes


def test_each_attempt_of_a_step_may_have_changed_the_context() -> None:
    run = Replay(reads("a"), reads("b"), has_context=True)
    data = json_bytes({"error": {"type": "ValueError", "message": "no"}, "retryable": True}).decode()
    run.happen(EventKind.FAILED, "0", data=data, context="delta", usage="tokens=3")
    run.succeed("0", context="delta", usage="tokens=10")

    fork, _ = fork_of(dump_of(run), run.spec, "1", "f", 5)

    assert fork.nodes["root"].context == ("ctx:root", "ctx:0#1", "ctx:0")
    assert fork.nodes["0"] == run.nodes["0"]
    assert fork.accounts["forked|tokens"] == "13"


class TestPlaces:
    @pytest.mark.parametrize(
        ("kind", "step", "path"),
        [
            ("parallel", "b", "1.0.1"),
            ("loop", "b", "1.2.1"),  # the last of three iterations
            ("loop", "1.0.1", "1.0.1"),
            ("machine", "b", "1.4.0"),
            ("sub-pipeline", "sub", "1"),
            ("router", "dyn", "1"),  # the parallel node in it has its name
            ("router", "z", "1.1.2.0"),
            ("branches of loops", "b", "1.0.0.2.1"),
            ("conditional", "c", "1.1.0"),
        ],
    )
    def test_a_name_means_the_node_or_the_last_time_that_it_ran(self, kind: str, step: str, path: str) -> None:
        run = whole(kind).run

        assert place_of(dump_of(run), run.spec, step) == path

    @pytest.mark.parametrize(
        ("kind", "step", "message"),
        [
            ("map", "b", "several steps 'b' at 1.0.1, 1.1.1, 1.2.1, 1.3.1; it has: 0 first, 1 map, 2 last"),
            ("map", "1.0", "no step '1.0'"),
            ("map", "9", "no step '9'"),
        ],
    )
    def test_what_is_no_place_is_told(self, kind: str, step: str, message: str) -> None:
        run = whole(kind).run

        with pytest.raises(ConfigurationError, match=message):
            place_of(dump_of(run), run.spec, step)

    @pytest.mark.parametrize(
        ("kind", "start", "message"),
        [
            ("conditional", "1.1.0", "step 1 'cond' took another branch"),
            ("loop", "1.3.0", "did not reach step 1.3.0 'a'"),
            ("router", "1.1.1.0", "did not reach step 1.1.1.0 'y'"),
        ],
    )
    def test_what_was_not_reached_is_no_beginning(self, kind: str, start: str, message: str) -> None:
        run = whole(kind).run

        with pytest.raises(ExecutionError, match=message):
            fork_of(dump_of(run), run.spec, start, "f", 5)


class TestAnotherPipeline:
    @pytest.mark.parametrize("kind", CONTAINERS)
    def test_what_depends_on_the_step_may_differ(self, kind: str) -> None:
        run = whole(kind).run
        newer = run.spec.model_copy(update={"root": sequence(*run.spec.root.nodes[:2], reads("other"), reads("more"))})

        fork = forked(run, "2", newer)

        assert fork.done == ["2", "3"]

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (parallel(sequence(reads("a"), reads("x")), sequence(reads("c"), reads("d"))), None),
            (
                parallel(sequence(reads("x"), reads("b")), sequence(reads("c"), reads("d"))),
                "Step 1.0.0 'x' .* function, name",
            ),
            (parallel(sequence(reads("a"), reads("b")), sequence(reads("c"), reads("x"))), "Step 1.1.1 'x' "),
            (
                parallel(sequence(reads("a"), reads("b")), sequence(reads("c")), max_concurrency=1),
                "Step 1 'par' .* max_concur",
            ),
            (loop(reads("a"), reads("b")), "Step 1 'loop' .*: that had no such step"),
        ],
    )
    def test_what_stands_around_the_step_and_beside_it_must_be_the_same(
        self, changed: Any, message: str | None
    ) -> None:
        run = whole("parallel").run
        newer = run.spec.model_copy(update={"root": sequence(reads("first"), changed, reads("last"))})

        if message is None:
            assert forked(run, "1.0.1", newer).done == ["1.0.1", "1!merge", "2"]
            return
        with pytest.raises(ConfigurationError, match=message):
            fork_of(dump_of(run), newer, "1.0.1", "f", 5)


def test_payloads_go_along_with_the_outcomes_that_they_belong_to() -> None:
    run = whole("map").run
    names = (
        "out:1!items.3",
        "kept:1.0.0.2",
        "kept:1.1.1.2",
        "ctx:1.0.0#1",
        "out:1!gather.0",
        "res:1.2.1",
        "other",
        "ans:0",
    )
    dump = dump_of(run)
    dump = dump.model_copy(update={"payloads": {**dump.payloads, **dict.fromkeys(names, 1)}})

    fork, _ = fork_of(dump, run.spec, "1.1.1", "f", 5)

    assert set(names) & fork.payloads.keys() == {"out:1!items.3", "kept:1.0.0.2", "ctx:1.0.0#1", "res:1.2.1", "ans:0"}


def test_a_decision_that_an_older_release_did_not_record_is_told_and_not_guessed() -> None:
    run = Replay(conditional(("x",), step_spec("x")), step_spec("after"))
    run.decided("0!choose", branch=0, key="x")
    run.succeed("0.0.0")
    run.succeed("1")
    older = {**run.nodes, "0!choose": run.nodes["0!choose"].model_copy(update={"verdict": None})}

    with pytest.raises(
        SchemaMismatchError, match=r"What step 0 decided at 0!choose is not recorded.*Fork from that step"
    ):
        reuse_before(older, run.spec, "1", has_context=False, check=lambda path: None)
    assert reuse_before(older, run.spec, "0", has_context=False, check=lambda path: None).reached
