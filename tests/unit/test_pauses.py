"""Pauses in `advance()`: when a run rests, what an answer sets going, and answers that come early."""

from __future__ import annotations

import pytest

from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import RetrySpec
from tests.unit.replay import Replay, hitl, loop, parallel, step, task_of


def _pause(run: Replay, path: str, message: str = "?", **fields: str) -> None:
    run.happen(EventKind.PAUSED, path, data=json_bytes({"verdict": {"message": message}}).decode(), **fields)


def _answer(run: Replay, path: str) -> None:
    run.happen(EventKind.ANSWERED, path, how="given")


class TestPause:
    def test_a_question_is_rendered_on_a_worker_from_what_came_before(self) -> None:
        run = Replay(step("a"), hitl("ask", message="{{ previous_step }}?", queue="people"))

        run.succeed("0")

        task, dispatch = task_of(run.last), run.last.dispatches[0]
        assert (dispatch.path, dispatch.function, dispatch.queue) == ("1", "flujo:ask", "people")
        assert (task.kind, task.control, task.expression) == ("hitl", "ask", "out:0")
        assert task.arguments == {"message": "{{ previous_step }}?"}

    def test_a_run_of_which_nothing_else_can_go_on_is_paused(self) -> None:
        run = Replay(hitl("ask"), step("after"))

        _pause(run, "0", "Go?")

        assert (run.status, run.nodes["0"].status) == (RunStatus.PAUSED, NodeStatus.PAUSED)
        assert run.nodes["0"].pause is not None
        assert run.nodes["0"].pause.message == "Go?"
        assert run.dispatched() == []

    def test_it_is_not_paused_while_another_branch_goes_on(self) -> None:
        run = Replay(parallel(hitl("ask"), step("x")))
        _pause(run, "0.0.0")
        assert not run.rests

        run.succeed("0.1.0")

        assert run.status is RunStatus.PAUSED

    def test_a_retry_that_waits_for_its_time_goes_on(self) -> None:
        run = Replay(parallel(hitl("ask"), step("x", retry=RetrySpec(retries=1, base_ms=1000))))
        _pause(run, "0.0.0")

        run.fail("0.1.0")

        assert run.status is RunStatus.RUNNING

    def test_a_branch_that_fails_beside_a_pause_fails_the_node_only_after_the_answer(self) -> None:
        run = Replay(parallel(hitl("ask"), step("x", retry=RetrySpec(retries=0))))
        _pause(run, "0.0.0")
        run.fail("0.1.0")
        assert run.rests
        _answer(run, "0.0.0")

        run.succeed("0.0.0")

        assert run.status is RunStatus.FAILED

    def test_a_step_may_pause_after_a_failed_attempt(self) -> None:
        run = Replay(step("x", retry=RetrySpec(retries=1)))
        run.fail("0")

        _pause(run, "0")

        assert run.status is RunStatus.PAUSED

    def test_what_a_step_used_before_it_paused_is_kept(self) -> None:
        run = Replay(step("x"), limits={"tokens": 10})

        _pause(run, "0", usage="tokens=4")

        assert run.nodes["0"].usage == {"tokens": 4}

    def test_a_step_that_used_too_much_does_not_pause(self) -> None:
        run = Replay(step("x"), limits={"tokens": 10})

        _pause(run, "0", usage="tokens=14", overrun="tokens=4")

        assert run.status is RunStatus.FAILED

    def test_a_pause_of_an_earlier_attempt_changes_nothing(self) -> None:
        run = Replay(step("x"))
        event = run.event(EventKind.PAUSED, "0", data='{"verdict":{"message":"?"}}')
        run.lose("0")

        assert run.decide(event).nodes == {}

    def test_a_cancel_ends_a_run_that_waits(self) -> None:
        run = Replay(hitl("ask"))
        _pause(run, "0")

        run.happen(EventKind.CANCELLED, "root", reason="enough")

        assert run.status is RunStatus.CANCELLED


class TestAnswer:
    @pytest.mark.parametrize("leaf", [hitl("ask", sink_to="x"), step("ask", sink_to="x")])
    def test_it_is_applied_on_a_worker_and_is_the_output(self, leaf: object) -> None:
        run = Replay(leaf, step("after"))
        _pause(run, "0", "Go?")
        _answer(run, "0")
        task = task_of(run.last)
        assert run.status is RunStatus.RUNNING
        assert run.dispatched() == [("0", 2)]
        assert (run.last.dispatches[0].function, task.control) == ("flujo:answer", "answer")
        assert (task.expression, task.arguments) == ("ans:0", {"message": "Go?", "sink_to": "x"})

        run.succeed("0")

        assert run.dispatched() == [("1", 1)]
        assert task_of(run.last).expression == "out:0"

    def test_one_that_comes_before_the_pause_is_consumed_by_it(self) -> None:
        run = Replay(hitl("ask"))
        _answer(run, "0")
        assert run.dispatched() == []

        _pause(run, "0")

        assert run.status is RunStatus.RUNNING
        assert run.last.dispatches[0].function == "flujo:answer"

    def test_one_for_a_step_that_has_not_been_reached_waits_for_it(self) -> None:
        run = Replay(step("a"), hitl("ask"))
        _answer(run, "1")
        run.succeed("0")

        _pause(run, "1")

        assert run.last.dispatches[0].function == "flujo:answer"

    def test_it_is_taken_once(self) -> None:
        run = Replay(hitl("ask"))
        _pause(run, "0")
        _answer(run, "0")

        _answer(run, "0")

        assert run.dispatched() == []

    def test_of_two_pauses_one_answer_leaves_the_other(self) -> None:
        run = Replay(parallel(hitl("a"), hitl("b")))
        _pause(run, "0.0.0")
        _pause(run, "0.1.0")
        _answer(run, "0.1.0")
        assert not run.rests

        run.succeed("0.1.0")

        assert (run.status, run.nodes["0.0.0"].status) == (RunStatus.PAUSED, NodeStatus.PAUSED)

    def test_a_worker_that_dies_over_an_answer_is_followed_by_another(self) -> None:
        run = Replay(step("x", on_worker_lost="fail"))
        _pause(run, "0")
        _answer(run, "0")

        run.lose("0")

        assert [(d.function, d.attempt) for d in run.last.dispatches] == [("flujo:answer", 3)]

    def test_an_answer_that_cannot_be_applied_fails_the_step(self) -> None:
        run = Replay(hitl("ask", sink_to="nowhere"))
        _pause(run, "0")
        _answer(run, "0")

        run.fail("0")

        assert run.status is RunStatus.FAILED

    def test_each_iteration_of_a_loop_asks_anew(self) -> None:
        run = Replay(loop(hitl("ask")))
        for iteration in (0, 1):
            _pause(run, f"0.{iteration}.0")
            assert run.status is RunStatus.PAUSED
            _answer(run, f"0.{iteration}.0")
            run.succeed(f"0.{iteration}.0")
            run.decided(f"0!next.{iteration}", exit=iteration == 1)

        assert run.status is RunStatus.COMPLETED


class TestExpiry:
    def test_alarms_are_set_with_the_pause_and_dropped_with_the_answer(self) -> None:
        run = Replay(hitl("ask", expires_ms=5000, reminders_ms=(1000, 2000)))

        _pause(run, "0")

        asked = run.nodes["0"].pause
        assert asked is not None
        assert [(alarm.what, (alarm.at_ms or 0) - asked.asked_ms) for alarm in run.last.alarms] == [
            ("expired", 5000),
            ("reminded:1", 1000),
            ("reminded:2", 2000),
        ]
        _answer(run, "0")
        assert {alarm.at_ms for alarm in run.last.alarms} == {None}

    def test_a_question_that_was_answered_ahead_sets_none(self) -> None:
        run = Replay(hitl("ask", expires_ms=5000))
        _answer(run, "0")

        _pause(run, "0")

        assert run.last.alarms == ()

    def test_when_time_is_up_the_step_fails(self) -> None:
        run = Replay(hitl("ask", expires_ms=1500), step("after"))
        _pause(run, "0")

        run.happen(EventKind.ANSWERED, "0", how="expired")

        assert run.status is RunStatus.FAILED
        assert (run.nodes["0"].error or {})["message"] == "Nobody answered 'ask' within 1.5 s"

    def test_or_the_default_answer_is_taken(self) -> None:
        run = Replay(hitl("ask", expires_ms=1500, on_expiry="answer", default={"ok": False}), step("after"))
        _pause(run, "0")

        run.happen(EventKind.ANSWERED, "0", how="expired")

        task = task_of(run.last)
        assert (task.control, task.expression) == ("answer", "input")
        assert task.arguments["default"] == {"answer": {"ok": False}}

    def test_a_reminder_leaves_the_run_at_rest(self) -> None:
        run = Replay(hitl("ask", reminders_ms=(1000,)))
        _pause(run, "0")

        run.happen(EventKind.REMINDED, "0", number="1")

        assert (run.status, run.nodes["0"].reminders) == (RunStatus.PAUSED, 1)

    def test_a_reminder_that_comes_after_the_answer_changes_nothing(self) -> None:
        run = Replay(hitl("ask", reminders_ms=(1000,)))
        _pause(run, "0")
        _answer(run, "0")

        run.happen(EventKind.REMINDED, "0", number="1")

        assert run.last.nodes == {}
