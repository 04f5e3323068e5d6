"""Loops and conditionals in `advance()`: what is started, on what input, with whose context, and how they end."""

from __future__ import annotations

import pytest

from flujo_client.execution.decision import NodeStatus
from flujo_client.execution.result import assemble_result
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import MachineSpec, RetrySpec, TransitionSpec
from tests.unit.replay import Replay, conditional, hitl, loop, machine, parallel, sequence, step, sub_pipeline, task_of


def _history(run: Replay) -> list[dict[str, object]]:
    record = {"status": run.status.value, "run_id": "r"}
    history: list[dict[str, object]] = assemble_result(run.spec, record, run.nodes, {}, {})["step_history"]
    return history


class TestLoop:
    def test_the_first_iteration_gets_the_loops_input(self) -> None:
        run = Replay(step("a"), loop(step("x"), step("y")))

        run.succeed("0")

        assert run.dispatched() == [("1.0.0", 1)]
        assert task_of(run.last).expression == "out:0"

    def test_the_condition_is_asked_after_each_iteration(self) -> None:
        run = Replay(loop(step("x", output_type="Draft")))

        run.succeed("0.0.0")

        task = task_of(run.last)
        assert run.dispatched() == [("0!next.0", 1)]
        assert (task.expression, task.producer, task.producer_function) == ("out:0.0.0", "x", "m:x")
        assert (task.control, task.roles) == ("next", {"exit_condition": "m:done"})
        assert task.arguments == {"iterations": 1, "last": False}
        assert run.last.dispatches[0].function == "flujo:next m:done"

    @pytest.mark.parametrize(("mapper", "expected"), [(None, "out:0.0.0"), ("m:map", "out:0!next.0")])
    def test_the_next_iteration_gets_the_output_before_it_or_what_was_mapped(
        self, mapper: str | None, expected: str
    ) -> None:
        run = Replay(loop(step("x"), iteration_mapper=mapper))
        run.succeed("0.0.0")

        run.decided("0!next.0", exit=False)

        assert run.dispatched() == [("0.1.0", 1)]
        assert task_of(run.last).expression == expected

    def test_an_initial_mapper_comes_first(self) -> None:
        run = Replay(loop(step("x"), initial_mapper="m:first"))
        assert run.dispatched() == [("0!enter", 1)]

        run.decided("0!enter")

        assert run.dispatched() == [("0.0.0", 1)]
        assert task_of(run.last).expression == "out:0!enter"

    @pytest.mark.parametrize(("mapper", "expected"), [(None, "out:0.1.0"), ("m:out", "out:0!next.1")])
    def test_what_follows_gets_the_last_output_or_what_was_mapped(self, mapper: str | None, expected: str) -> None:
        run = Replay(loop(step("x"), output_mapper=mapper), step("after"))
        run.succeed("0.0.0")
        run.decided("0!next.0", exit=False)
        run.succeed("0.1.0")

        run.decided("0!next.1", exit=True)

        assert run.dispatched() == [("1", 1)]
        assert task_of(run.last).expression == expected

    def test_a_loop_at_its_limit_fails_but_what_follows_runs(self) -> None:
        run = Replay(loop(step("x"), max_loops=1), step("after"))
        run.succeed("0.0.0")

        run.decided("0!next.0", exit=False)
        run.succeed("1")

        first = _history(run)[0]
        assert run.status is RunStatus.COMPLETED
        assert (first["success"], first["feedback"]) == (False, "reached max_loops")
        assert first["metadata_"] == {"iterations": 1, "exit_reason": "max_loops"}

    def test_a_loop_at_its_limit_at_the_end_fails_the_run(self) -> None:
        run = Replay(loop(step("x"), max_loops=1))
        run.succeed("0.0.0")

        run.decided("0!next.0", exit=False)

        assert run.status is RunStatus.FAILED

    def test_a_failing_body_fails_the_loop_at_once(self) -> None:
        run = Replay(loop(step("x")))

        run.fail("0.0.0", retryable=False)

        assert run.status is RunStatus.FAILED
        result = _history(run)[0]
        assert result["feedback"] == "Loop body failed: no"
        assert result["metadata_"] == {"iterations": 1, "exit_reason": "body_step_error"}

    @pytest.mark.parametrize(
        ("role", "reason"),
        [
            ("exit_condition", "exit_condition_error"),
            ("iteration_mapper", "iteration_input_mapper_error"),
            ("output_mapper", "loop_output_mapper_error"),
            ("", "pipeline_execution_error"),
        ],
    )
    def test_a_function_that_raises_fails_the_loop_without_another_try_and_is_told(
        self, role: str, reason: str
    ) -> None:
        run = Replay(loop(step("x")))
        run.succeed("0.0.0")

        run.fail("0!next.0", error={"type": "ValueError", "message": "no", **({"role": role} if role else {})})

        assert run.status is RunStatus.FAILED
        result = _history(run)[0]
        assert (result["feedback"], result["metadata_"]) == ("no", {"iterations": 1, "exit_reason": reason})

    def test_a_body_whose_worker_dies_too_often_is_no_error_of_a_step(self) -> None:
        run = Replay(loop(step("x")))

        for _ in range(3):
            run.lose("0.0.0")

        result = _history(run)[0]
        assert result["metadata_"] == {"iterations": 1, "exit_reason": "pipeline_execution_error"}
        assert result["feedback"] == "Loop body failed: step 'x' crashed its worker 3 times"

    def test_a_first_mapper_that_raises_fails_the_loop(self) -> None:
        run = Replay(loop(step("x"), initial_mapper="m:first"))

        run.fail("0!enter")

        assert _history(run)[0]["metadata_"] == {"iterations": 0, "exit_reason": "initial_input_mapper_error"}

    def test_a_budget_that_cannot_pay_ends_the_loop_that_has_done_what_it_could(self) -> None:
        run = Replay(loop(parallel(step("x"))), limits={"tokens": 5})

        run.happen(EventKind.REFUSED, "0.0.0.0.0", account="root", meter="tokens", asked="6", free="5")

        result = _history(run)[0]
        assert run.status is RunStatus.FAILED
        assert result["metadata_"] == {"iterations": 1, "exit_reason": "quota_limit_exceeded"}
        assert result["feedback"] == "Token limit of 5 exceeded"

    def test_the_context_of_an_iteration_becomes_that_of_the_loop_when_it_succeeds(self) -> None:
        run = Replay(loop(step("x", uses_context=True)), step("after", uses_context=True), has_context=True)
        assert task_of(run.last).context == ("ctx:root",)

        run.succeed("0.0.0", context="delta")
        assert task_of(run.last).context == ("ctx:root", "ctx:0.0.0")
        run.decided("0!next.0", exit=False)
        assert task_of(run.last).context == ("ctx:root", "ctx:0.0.0")
        run.succeed("0.1.0", context="delta")
        run.decided("0!next.1", exit=True)

        assert task_of(run.last).context == ("ctx:root", "ctx:0.0.0", "ctx:0.1.0")

    def test_loops_inside_loops_count_their_own_iterations(self) -> None:
        run = Replay(loop(loop(step("x"))))
        run.succeed("0.0.0.0.0")
        run.decided("0.0.0!next.0", exit=True)
        run.decided("0!next.0", exit=False)

        assert run.dispatched() == [("0.1.0.0.0", 1)]
        assert task_of(run.last).expression == "out:0.0.0.0.0"

    def test_an_iteration_with_branches_splits_and_gives_back_its_budget(self) -> None:
        run = Replay(loop(parallel(step("x"), step("y"))), limits={"tokens": 10})
        assert [split.path for split in run.last.splits] == ["0.0.0"]
        run.succeed("0.0.0.0.0")

        run.succeed("0.0.0.1.0")

        assert run.dispatched() == [("0!next.0", 1)]
        assert [end.chain for end in run.last.branch_ends] == [("0.0.0.1", "root")]


class TestConditional:
    def test_the_condition_is_asked_first(self) -> None:
        run = Replay(step("a"), conditional(("x", True), step("x"), step("y")))

        run.succeed("0")

        task = task_of(run.last)
        assert run.dispatched() == [("1!choose", 1)]
        assert (task.expression, task.producer_function) == ("out:0", "m:a")
        assert task.arguments == {"keys": ["x", True], "default": False}

    @pytest.mark.parametrize(("mapper", "expected"), [(None, "input"), ("m:map", "out:0!choose")])
    def test_the_chosen_branch_runs_on_the_input_or_what_was_mapped(self, mapper: str | None, expected: str) -> None:
        run = Replay(conditional(("x", "y"), step("x"), step("y"), input_mapper=mapper))

        run.decided("0!choose", branch=1, key="y")

        assert run.dispatched() == [("0.1.0", 1)]
        assert task_of(run.last).expression == expected

    def test_its_output_is_that_of_the_branch(self) -> None:
        run = Replay(conditional(("x", "y"), step("x"), step("y")), step("after"))
        run.decided("0!choose", branch=1, key="y")

        run.succeed("0.1.0")

        assert run.dispatched() == [("1", 1)]
        assert (task_of(run.last).expression, task_of(run.last).producer) == ("out:0.1.0", "y")
        assert run.nodes["0"].status is NodeStatus.SUCCEEDED

    def test_an_output_mapper_comes_last(self) -> None:
        run = Replay(conditional(("x",), step("x"), output_mapper="m:out"), step("after"))
        run.decided("0!choose", branch=0, key="x")
        run.succeed("0.0.0")
        assert run.dispatched() == [("0!output", 1)]
        assert task_of(run.last).arguments == {"key": "x"}

        run.decided("0!output")

        assert task_of(run.last).expression == "out:0!output"

    def test_a_condition_that_finds_no_branch_fails_the_node(self) -> None:
        run = Replay(conditional(("x",), step("x")))

        run.fail("0!choose")

        assert run.status is RunStatus.FAILED
        assert (_history(run)[0]["feedback"], _history(run)[0]["step_history"]) == ("no", [])

    def test_a_failing_branch_fails_the_node(self) -> None:
        run = Replay(conditional(("x",), step("x")))
        run.decided("0!choose", branch=0, key="x")

        run.fail("0.0.0", retryable=False)

        result = _history(run)[0]
        assert run.status is RunStatus.FAILED
        assert (result["feedback"], result["metadata_"]) == ("Failure in branch 'x': no", {"executed_branch_key": "x"})

    def test_the_branchs_context_becomes_the_pipelines(self) -> None:
        run = Replay(conditional(("x",), step("x", uses_context=True)), step("b", uses_context=True))
        run.decided("0!choose", branch=0, key="x")

        run.succeed("0.0.0", context="snapshot")

        assert task_of(run.last).context == ("ctx:0.0.0",)

    def test_a_parallel_of_conditionals_joins_on_what_each_chose(self) -> None:
        choice = conditional(("x", "y"), step("x"), step("y"))
        run = Replay(parallel(choice, choice), step("after"))
        run.decided("0.0.0!choose", branch=1, key="y")
        run.decided("0.1.0!choose", branch=0, key="x")
        run.succeed("0.1.0.0.0")

        run.succeed("0.0.0.1.0")

        assert task_of(run.last).expression == {"b0": "out:0.0.0.1.0", "b1": "out:0.1.0.0.0"}


class TestFallback:
    def test_it_runs_on_the_same_input_when_every_attempt_has_failed(self) -> None:
        run = Replay(step("a"), step("b", fallback=step("plan-b", queue="other"), retry=RetrySpec(retries=1)))
        run.succeed("0")
        run.fail("1")

        run.fail("1")

        dispatch = run.last.dispatches[0]
        assert (dispatch.path, dispatch.attempt, dispatch.function, dispatch.queue) == ("1", 3, "m:plan-b", "other")
        assert task_of(run.last).expression == "out:0"

    def test_its_result_stands_for_the_steps(self) -> None:
        run = Replay(step("b", fallback=step("plan-b"), retry=RetrySpec(retries=0)))
        run.fail("0")

        run.succeed("0")

        result = _history(run)[0]
        assert run.status is RunStatus.COMPLETED
        assert (result["attempts"], result["success"]) == (2, True)
        told = {"fallback_triggered": True, "original_error": "no", "preserve_fallback_diagnostics": False}
        assert result["metadata_"] == told

    def test_when_it_fails_too_both_errors_are_told(self) -> None:
        run = Replay(step("b", fallback=step("plan-b", retry=RetrySpec(retries=5)), retry=RetrySpec(retries=0)))
        run.fail("0")

        run.fail("0")

        result = _history(run)[0]
        assert run.status is RunStatus.FAILED
        assert (result["name"], result["feedback"]) == ("b", "Original error: no; Fallback error: no")

    def test_a_fallback_may_have_one_of_its_own(self) -> None:
        run = Replay(step("a", fallback=step("b", fallback=step("c")), retry=RetrySpec(retries=0)))
        run.fail("0")
        run.fail("0")

        assert run.last.dispatches[0].function == "m:c"

    def test_a_lost_fallback_runs_again_as_the_fallback(self) -> None:
        run = Replay(step("a", fallback=step("b"), retry=RetrySpec(retries=0)))
        run.fail("0")

        run.lose("0")

        assert (run.last.dispatches[0].function, run.dispatched()) == ("m:b", [("0", 3)])


class TestMachine:
    def test_a_state_that_is_no_end_asks_where_to_go(self) -> None:
        run = Replay(machine("a", "b", ends=("b",)))
        assert run.dispatched() == [("0.0.0", 1)]

        run.succeed("0.0.0")

        assert run.dispatched() == [("0!next.0", 1)]
        assert task_of(run.last).expression == "out:0.0.0"
        assert task_of(run.last).arguments["outcome"] == "success"

    def test_the_next_state_gets_the_output_before_it_and_an_end_ends(self) -> None:
        run = Replay(machine("a", "b", ends=("b",)), step("after"))
        run.succeed("0.0.0")
        run.decided("0!next.0", to="b")
        assert run.dispatched() == [("0.3.0", 1)]
        assert task_of(run.last).expression == "out:0.0.0"

        run.succeed("0.3.0")

        assert task_of(run.last).expression == "out:0.3.0"
        run.succeed("1")
        assert _history(run)[0]["metadata_"] == {"states": ["a", "b"]}

    def test_an_end_that_has_nothing_to_run_ends_with_what_it_would_have_got(self) -> None:
        edge = TransitionSpec(source="*", on="failure", target="done")
        for fails in (False, True):
            run = Replay(step("before"), machine("a", "b", ends=("done",), transitions=(edge,)), step("after"))
            run.succeed("0")
            if fails:
                run.fail("1.0.0", retryable=False)
            else:
                run.succeed("1.0.0")
            assert task_of(run.last).arguments["states"] == ["a", "b", "done"]

            run.decided("1!next.0", to="done")

            assert run.dispatched() == [("2", 1)]
            assert task_of(run.last).expression == ("out:0" if fails else "out:1.0.0")

    def test_a_machine_in_a_loop_hands_its_last_states_output_to_the_next_iteration(self) -> None:
        run = Replay(loop(machine("a")))
        run.succeed("0.0.0.0.0")
        run.decided("0.0.0!next.0", to=None)

        run.decided("0!next.0", exit=False)

        assert task_of(run.last).expression == "out:0.0.0.0.0"

    def test_with_nowhere_to_go_it_is_done(self) -> None:
        run = Replay(machine("a"))
        run.succeed("0.0.0")

        run.decided("0!next.0", to=None)

        assert run.status is RunStatus.COMPLETED

    def test_a_failure_goes_where_a_transition_for_failures_leads(self) -> None:
        edge = TransitionSpec(source="*", on="failure", target="b")
        run = Replay(step("first"), machine("a", "b", ends=("b",), transitions=(edge,)))
        run.succeed("0")
        run.fail("1.0.0", retryable=False)
        assert task_of(run.last).arguments["outcome"] == "failure"

        run.decided("1!next.0", to="b")

        assert run.dispatched() == [("1.3.0", 1)]
        assert task_of(run.last).expression == "out:0"

    @pytest.mark.parametrize("edges", [(), (TransitionSpec(source="a", on="failure", target="b", when="m:w"),)])
    def test_a_failure_that_leads_nowhere_fails_it(self, edges: tuple[TransitionSpec, ...]) -> None:
        run = Replay(machine("a", "b", transitions=edges))
        run.fail("0.0.0", retryable=False)
        if edges:
            run.decided("0!next.0", to=None)

        assert run.status is RunStatus.FAILED
        assert _history(run)[0]["feedback"] == "no"

    def test_one_hop_too_many_is_a_failure(self) -> None:
        run = Replay(machine("a", "b", most_hops=1))
        run.succeed("0.0.0")

        run.decided("0!next.0", to="a")

        assert run.status is RunStatus.FAILED
        assert _history(run)[0]["feedback"] == "The state machine was to enter 'a' after 1 hops, its limit"


class TestSubPipeline:
    def test_its_body_starts_at_once_on_its_input_and_context(self) -> None:
        run = Replay(step("a"), sub_pipeline(step("x", uses_context=True)), has_context=True)

        run.succeed("0")

        assert run.dispatched() == [("1.0.0", 1)]
        assert (task_of(run.last).expression, task_of(run.last).context) == ("out:0", ("ctx:root",))

    def test_a_context_of_its_own_is_made_first_and_stays_inside(self) -> None:
        inner = sub_pipeline(step("x", uses_context=True), inherit_context=False, context_model="m:Model")
        run = Replay(inner, step("after", uses_context=True), has_context=True)
        assert run.dispatched() == [("0!enter", 1)]
        assert task_of(run.last).arguments == {"inherit": False, "data": {}}

        run.succeed("0!enter", context="snapshot")
        assert (task_of(run.last).context, task_of(run.last).context_model) == (("ctx:0!enter",), "m:Model")
        run.succeed("0.0.0", context="delta")

        assert (task_of(run.last).context, task_of(run.last).context_model) == (("ctx:root",), "")

    def test_its_result_is_made_of_its_steps(self) -> None:
        run = Replay(sub_pipeline(step("x"), parallel(step("y"), step("z")), gives_result=True), step("after"))
        run.succeed("0.0.0")
        run.succeed("0.0.1.0.0")
        run.succeed("0.0.1.1.0")

        task = task_of(run.last)
        assert run.dispatched() == [("0!result", 1)]
        assert {"out:0.0.0", "out:0.0.1.0.0", "res:0.0.1.1.0"} <= task.expression.keys()
        assert [part["name"] for part in task.arguments["history"]] == ["x", "par"]
        run.succeed("0!result")
        assert task_of(run.last).expression == "out:0!result"


class TestMachineWithPauses:
    def _asked(self, *edges: TransitionSpec) -> Replay:
        states = (sequence(hitl("ask"), step("rest")), sequence(step("b")))
        spec = MachineSpec(
            name="m", names=("a", "b"), states=states, start="a", ends=("b",), transitions=edges, most_hops=5
        )
        run = Replay(spec, step("after"))
        run.happen(EventKind.PAUSED, "0.0.0", data='{"verdict":{"message":"?"}}')
        run.happen(EventKind.ANSWERED, "0.0.0", how="given")
        run.succeed("0.0.0")
        return run

    def test_without_a_transition_for_pauses_the_state_goes_on(self) -> None:
        assert self._asked().dispatched() == [("0.0.1", 1)]

    def test_a_transition_for_pauses_leaves_the_state_with_the_answer(self) -> None:
        run = self._asked(TransitionSpec(source="a", on="pause", target="b"))
        assert run.dispatched() == [("0!paused.0", 1)]
        assert (task_of(run.last).expression, task_of(run.last).arguments["outcome"]) == ("out:0.0.0", "pause")

        run.decided("0!paused.0", to="b")

        assert run.dispatched() == [("0.3.0", 1)]
        assert task_of(run.last).expression == "out:0.0.0"
        run.succeed("0.3.0")
        assert run.dispatched() == [("1", 1)]

    def test_one_that_does_not_apply_lets_the_state_go_on(self) -> None:
        run = self._asked(TransitionSpec(source="*", on="pause", target="b", when="m:w"))

        run.decided("0!paused.0", to=None)

        assert run.dispatched() == [("0.0.1", 1)]
        run.succeed("0.0.1")
        assert run.dispatched() == [("0!next.0", 1)]
