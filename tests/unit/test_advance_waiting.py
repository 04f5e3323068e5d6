"""What `advance()` makes of attempts that wait for budget."""

from __future__ import annotations

import pytest

from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.results import RunStatus
from tests.unit.replay import Replay, hitl, parallel, step


def test_a_blocked_attempt_is_no_attempt_more_and_is_published_again_when_it_is_woken() -> None:
    run = Replay(parallel(step("x"), step("y")), limits={"tokens": 10})

    run.happen(EventKind.BLOCKED, "0.1.0")
    assert (run.nodes["0.1.0"].status, run.nodes["0.1.0"].attempt, run.dispatched()) == (NodeStatus.BLOCKED, 1, [])
    decision = run.happen(EventKind.UNBLOCKED, "0.1.0")

    assert decision.dispatches == ()  # a script has journalled it
    (woken,) = decision.woken
    assert (woken.path, woken.attempt, woken.function, woken.queue) == ("0.1.0", 1, "m:y", "default")
    assert run.nodes["0.1.0"].status is NodeStatus.DISPATCHED
    run.succeed("0.1.0")
    run.succeed("0.0.0")
    assert run.status is RunStatus.COMPLETED


@pytest.mark.parametrize("kind", [EventKind.BLOCKED, EventKind.UNBLOCKED])
def test_what_an_attempt_before_waited_for_changes_nothing(kind: EventKind) -> None:
    run = Replay(step("x"), limits={"tokens": 10})
    run.fail("0")

    decision = run.happen(kind, "0", attempt="1")

    assert (run.nodes["0"].status, decision.woken) == (NodeStatus.DISPATCHED, ())


def test_a_blocked_attempt_that_nobody_can_pay_ends_the_run_and_is_named() -> None:
    run = Replay(parallel(step("x"), step("y")), limits={"tokens": 10})
    run.happen(EventKind.BLOCKED, "0.1.0")

    run.happen(EventKind.REFUSED, "0.1.0", account="0.1", meter="tokens", asked="9", free="7")

    assert (run.status, run.nodes["0.1.0"].status) == (RunStatus.FAILED, NodeStatus.FAILED)
    assert run.error is not None
    facts = {key: run.error["data"][key] for key in ("account", "meter", "asked", "free", "path")}
    assert facts == {"account": "0.1", "meter": "tokens", "asked": 9, "free": 7, "path": "0.1.0"}
    assert run.error["message"] == "Token limit of 10 exceeded"


def test_a_run_does_not_rest_while_one_of_its_attempts_waits_for_budget() -> None:
    run = Replay(parallel(hitl("ask"), step("y")), limits={"tokens": 10})
    run.happen(EventKind.BLOCKED, "0.1.0")

    run.happen(EventKind.PAUSED, "0.0.0", data='{"verdict":{"message":"?"}}')
    assert not run.rests
    run.happen(EventKind.UNBLOCKED, "0.1.0")
    run.succeed("0.1.0")

    assert run.rests
