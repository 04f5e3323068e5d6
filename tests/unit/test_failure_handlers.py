"""Failure handlers: called when a step has failed for good, before anybody hears of it."""

from __future__ import annotations

from typing import Any

import pytest

from flujo_client import Flujo, Pipeline, RunFailedError, RunStatus, Step, UsageLimitExceededError, UsageLimits
from flujo_client.execution.decision import NodeStatus
from flujo_client.protocol.messages import EventKind
from flujo_client.protocol.spec import RetrySpec, StepSpec
from tests.unit.replay import Replay, loop, parallel, step


async def refuse(number: int) -> int:
    raise ValueError("no")


async def add(number: int) -> int:
    return number + 1


class Heard:
    """Hooks and handlers that say when they were called."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def says(self, word: str) -> Any:
        return lambda: self.words.append(word)

    async def hook(self, payload: Any) -> None:
        self.words.append(payload.event_name)


class TestInProcess:
    def test_they_are_called_in_order_after_the_last_attempt_and_before_on_step_failure(self) -> None:
        heard = Heard()
        bad: Step[Any, Any] = Step(
            name="bad", agent=refuse, failure_handlers=[heard.says("first"), heard.says("second")]
        )

        result = Flujo(bad, hooks=[heard.hook]).run(1)

        assert heard.words == ["pre_run", "pre_step", "first", "second", "on_step_failure", "post_run"]
        assert result.step_history[0].attempts == 2
        assert result.step_history[0].feedback == "Agent execution failed with ValueError: no"

    def test_a_step_that_succeeds_at_last_calls_none(self) -> None:
        heard = Heard()
        retried: Step[Any, Any] = Step(name="good", agent=add, failure_handlers=[heard.says("never")])
        saved: Step[Any, Any] = Step(
            name="bad", agent=refuse, failure_handlers=[heard.says("never")], fallback_step=Step(name="b", agent=add)
        )

        assert Flujo(retried >> saved).run(1).output == 3
        assert heard.words == []

    def test_a_fallback_that_fails_too_calls_those_of_the_step(self) -> None:
        heard = Heard()
        other: Step[Any, Any] = Step(name="other", agent=refuse, failure_handlers=[heard.says("other")])

        Flujo(Step(name="bad", agent=refuse, failure_handlers=[heard.says("bad")], fallback_step=other)).run(1)

        assert heard.words == ["bad"]

    def test_composites_have_them_as_well_and_inner_ones_come_first(self) -> None:
        heard = Heard()
        bad: Step[Any, Any] = Step(name="bad", agent=refuse, failure_handlers=[heard.says("bad")])
        both = Step.parallel(
            "both", {"a": bad, "b": Step(name="add", agent=add)}, failure_handlers=[heard.says("both")]
        )

        result = Flujo(both).run(1)

        assert heard.words == ["bad", "both"]
        assert result.status is RunStatus.FAILED

    def test_what_one_raises_is_raised_out_of_the_run_and_names_the_step(self) -> None:
        heard = Heard()

        def burst() -> None:
            raise KeyError("pager")

        bad: Step[Any, Any] = Step(name="bad", agent=refuse, failure_handlers=[burst, heard.says("never")])
        with pytest.raises(RunFailedError, match=r"KeyError: 'pager' .*step 'bad'"):
            Flujo(bad, hooks=[heard.hook]).run(1)

        assert heard.words == ["pre_run", "pre_step", "on_step_failure", "post_run"]

    def test_a_loop_at_its_limit_calls_them_and_what_follows_runs(self) -> None:
        heard = Heard()
        loops = Step.loop_until(
            "loops",
            Step(name="add", agent=add),
            lambda o, c: False,
            max_loops=2,
            failure_handlers=[heard.says("loops")],
        )

        assert Flujo(Pipeline([loops, Step(name="after", agent=add)])).run(1).output == 4
        assert heard.words == ["loops"]

    def test_a_budget_that_cannot_pay_is_no_failure_to_handle(self) -> None:
        heard = Heard()
        dear: Step[Any, Any] = Step.from_callable(add, expected_tokens=9, failure_handlers=[heard.says("never")])

        with pytest.raises(UsageLimitExceededError):
            Flujo(dear, usage_limits=UsageLimits(total_tokens_limit=5)).run(1)
        assert heard.words == []


def status_of(run: Replay, path: str) -> NodeStatus:
    return run.nodes[path].status


def ended(run: Replay) -> RunStatus | None:
    return run.status if run.status.terminal else None


def handled(name: str = "a", **terms: Any) -> StepSpec:
    return step(name, retry=RetrySpec(retries=0), failure_handlers=("m:page",), **terms)


class TestDecisions:
    def test_the_node_goes_on_running_while_its_handlers_do(self) -> None:
        run = Replay(handled(), step("b"))

        run.fail("0")

        assert run.dispatched() == [("0!failed", 1)]
        assert status_of(run, "0") is NodeStatus.RUNNING
        assert ended(run) is None
        run.succeed("0!failed")
        assert status_of(run, "0") is NodeStatus.FAILED
        assert ended(run) == RunStatus.FAILED

    def test_a_lost_worker_calls_them_again_and_a_step_that_lost_its_last_one_as_well(self) -> None:
        run = Replay(handled(on_worker_lost="fail"))

        run.lose("0")
        assert run.dispatched() == [("0!failed", 1)]
        run.lose("0!failed")

        assert run.dispatched() == [("0!failed", 2)]

    def test_a_loop_fails_after_the_handlers_of_its_body(self) -> None:
        run = Replay(loop(handled(), failure_handlers=("m:page",)))

        run.fail("0.0.0")
        run.succeed("0.0.0!failed")

        assert run.dispatched() == [("0!failed", 1)]

    def test_siblings_go_on_meanwhile(self) -> None:
        run = Replay(parallel(handled("a"), step("b")))

        run.fail("0.0.0")
        run.succeed("0.1.0")
        assert ended(run) is None
        run.succeed("0.0.0!failed")

        assert ended(run) == RunStatus.FAILED

    def test_a_cancelled_run_waits_for_no_handler(self) -> None:
        run = Replay(handled())
        run.fail("0")

        run.happen(EventKind.CANCELLED, "root")

        assert ended(run) == RunStatus.CANCELLED

    def test_its_own_limits_are_not_those_of_its_handlers(self) -> None:
        run = Replay(handled(usage_limits={"tokens": 5}))

        run.fail("0")

        assert "~" not in (run.last.dispatches[0].terms or "")
