"""Sentences of docs/parity.md about hooks, pauses and traces, each in process and on one fleet."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import ValidationError as PydanticValidationError

from flujo_client import (
    ConversationRole,
    Flujo,
    InMemoryBackend,
    OnPauseRequestedPayload,
    OnStepFailurePayload,
    PipelineAbortSignal,
    PipelineResult,
    PostRunPayload,
    PostStepPayload,
    PreRunPayload,
    PreStepPayload,
    ResumeError,
    RunStatus,
    UsageLimitExceededError,
    UsageLimits,
)
from tests.integration import parity_runs as made
from tests.integration.conftest import Open, run
from tests.integration.parity_pipelines import choosing
from tests.integration.parity_runs import Diary


class Heard:
    """A hook that remembers."""

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    async def __call__(self, payload: Any) -> None:
        self.payloads.append(payload)

    @property
    def names(self) -> list[str]:
        return [payload.event_name for payload in self.payloads]

    def of(self, name: str) -> list[Any]:
        return [payload for payload in self.payloads if payload.event_name == name]


class TestHooks:
    async def test_a_run_of_two_steps_is_told_in_order(self, flujo: Open) -> None:
        heard = Heard()
        await run(flujo(made.plain, hooks=[heard]))

        assert heard.names == ["pre_run", "pre_step", "post_step", "pre_step", "post_step", "post_run"]

    async def test_a_failure_is_told_in_order(self, flujo: Open) -> None:
        heard = Heard()
        await run(flujo(made.failing, hooks=[heard]))

        assert heard.names == ["pre_run", "pre_step", "post_step", "pre_step", "on_step_failure", "post_run"]

    async def test_payloads_have_their_fields(self, flujo: Open) -> None:
        heard, limits = Heard(), UsageLimits(total_cost_usd_limit=2.0, total_tokens_limit=100)
        async with flujo(made.failing, hooks=[heard], usage_limits=limits) as runner:
            result = await runner.run_async(1, run_id="payloads")

        (start,), (end,), (failure,) = (heard.of(name) for name in ("pre_run", "post_run", "on_step_failure"))
        begun, done = heard.of("pre_step")[0], heard.of("post_step")[0]
        assert isinstance(start, PreRunPayload)
        assert (start.initial_input, start.run_id, start.pipeline_name) == (1, "payloads", "failing")
        assert start.pipeline_version == "latest"
        assert (start.initial_budget_cost_usd, start.initial_budget_tokens) == (2.0, 100)
        assert isinstance(begun, PreStepPayload)
        assert (begun.step.name, begun.step_input, begun.attempt_number, begun.cache_hit) == ("inc", 1, 1, False)
        assert (begun.quota_before_usd, begun.quota_before_tokens) == (2.0, 100)
        assert isinstance(done, PostStepPayload)
        assert (done.step_result.name, done.step_result.output) == ("inc", 2)
        assert isinstance(failure, OnStepFailurePayload)
        assert failure.step_result.feedback == "Agent execution failed with ValueError: no"
        assert isinstance(end, PostRunPayload)
        assert end.pipeline_result.step_history == result.step_history
        for payload in heard.payloads:
            assert (payload.is_background, payload.resources) == (False, None)
            assert payload.context.run_id == "payloads"

    async def test_an_abort_in_an_earlier_hook_hides_the_event_from_later_ones(self, flujo: Open) -> None:
        later = Heard()

        async def abort(payload: PostStepPayload) -> None:
            raise PipelineAbortSignal("enough")

        result = await run(flujo(made.plain, hooks=[abort, later]))

        assert result.status is RunStatus.ABORTED
        assert [part.name for part in result.step_history] == ["inc"]  # what is done stays
        assert later.names == ["pre_run", "pre_step", "post_run"]

    async def test_hooks_are_awaited_one_after_the_other(self, flujo: Open) -> None:
        order: list[str] = []

        async def slow(payload: PreRunPayload) -> None:
            order.append("slow begins")
            for _ in range(3):
                await asyncio.sleep(0)
            order.append("slow ends")

        async def next_one(payload: PreRunPayload) -> None:
            order.append("next")

        await run(flujo(made.plain, hooks=[slow, next_one]))

        assert order == ["slow begins", "slow ends", "next"]

    async def test_a_faulty_one_is_logged_by_its_name(self, flujo: Open, caplog: pytest.LogCaptureFixture) -> None:
        async def clumsy(payload: PreRunPayload) -> None:
            raise ValueError("dropped it")

        with caplog.at_level(logging.ERROR):
            result = await run(flujo(made.plain, hooks=[clumsy]))

        assert result.success
        assert "clumsy" in caplog.text
        assert "dropped it" in caplog.text

    async def test_a_strict_faulty_one_raises_what_it_raised(
        self, flujo: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def clumsy(payload: PreStepPayload) -> None:
            raise LookupError("dropped it")

        monkeypatch.setenv("FLUJO_STRICT_HOOKS", "1")

        with pytest.raises(LookupError, match="dropped it"):
            await run(flujo(made.plain, hooks=[clumsy]))

    async def test_an_abort_in_post_run_never_hides_a_limit(self, flujo: Open) -> None:
        async def abort(payload: PostRunPayload) -> None:
            raise PipelineAbortSignal("too late")

        with pytest.raises(UsageLimitExceededError):
            await run(flujo(made.short_of_both, hooks=[abort], usage_limits=UsageLimits(total_tokens_limit=1)))


class TestPauses:
    async def test_a_paused_run_has_its_message_its_input_and_what_is_done(self, flujo: Open) -> None:
        result = await run(flujo(made.asking, context_model=Diary))

        context = result.final_pipeline_context
        assert (result.success, result.status) == (False, RunStatus.PAUSED)
        assert [part.name for part in result.step_history] == ["inc"]
        assert (context.status, context.pause_message, context.paused_step_input) == ("paused", "first of 2?", 2)

    async def test_without_a_message_the_input_is_the_question(self, flujo: Open) -> None:
        context = (await run(flujo(made.asking_plainly, context_model=Diary))).final_pipeline_context

        assert context.pause_message == "2"

    async def test_a_step_that_raises_pauses_with_its_words_and_its_context(self, flujo: Open) -> None:
        context = (await run(flujo(made.raising, context_model=Diary), 5)).final_pipeline_context

        assert (context.status, context.pause_message, context.paused_step_input, context.n) == (
            "paused",
            "go on?",
            5,
            5,
        )

    async def test_an_answer_is_sunk_remembered_told_and_handed_on(self, flujo: Open) -> None:
        heard = Heard()
        async with flujo(made.asking, context_model=Diary, hooks=[heard]) as runner:
            paused = await runner.run_async(1)
            result = await runner.resume_async(paused, "yes")

        context = result.final_pipeline_context
        assert (context.answer, context.step_outputs["ask"]) == ("yes", "yes")
        (answer,) = context.hitl_history
        assert (answer.message_to_human, answer.human_response) == ("first of 2?", "yes")
        said = [(turn.role, turn.content) for turn in context.conversation_history]
        assert said == [(ConversationRole.ASSISTANT, "first of 2?"), (ConversationRole.USER, "yes")]
        answered = result.step_history[1]
        assert (answered.name, answered.success, answered.output) == ("ask", True, "yes")
        assert "ask" in [payload.step_result.name for payload in heard.of("post_step")]
        assert heard.of("pre_step")[-1].step_input == "yes"
        (asked,) = heard.of("on_pause_requested")
        assert isinstance(asked, OnPauseRequestedPayload)
        assert (asked.step_name, asked.pause_message) == ("ask", "first of 2?")

    async def test_an_answer_that_does_not_fit_is_refused_and_the_pause_stays(self, flujo: Open) -> None:
        async with flujo(made.approving, context_model=Diary) as runner:
            paused = await runner.run_async(1)
            with pytest.raises(PydanticValidationError):
                await runner.resume_async(paused, {"why": "because"})
            result = await runner.resume_async(paused, {"yes": True})

        assert result.output == made.Approval(yes=True)

    async def test_what_is_not_paused_or_has_no_context_is_not_resumed(self, flujo: Open) -> None:
        async with flujo(made.plain) as runner:
            done = await runner.run_async(1)
            with pytest.raises(ResumeError, match="Pipeline is not paused"):
                await runner.resume_async(done, "yes")
            with pytest.raises(ResumeError, match="Cannot resume pipeline without context"):
                await runner.resume_async(PipelineResult(), "yes")

    async def test_a_paused_result_survives_json(self, flujo: Open) -> None:
        async with flujo(made.asking, context_model=Diary) as runner:
            paused = await runner.run_async(1)
            rebuilt = PipelineResult.model_validate_json(paused.model_dump_json())
            result = await runner.resume_async(rebuilt, "yes")

        assert result.output == [0, "first"]

    async def test_branches_beside_a_pause_go_on(self, flujo: Open) -> None:
        heard = Heard()
        async with flujo(made.beside, context_model=Diary, hooks=[heard]) as runner:
            paused = await runner.run_async(1)
            ended = [payload.step_result.name for payload in heard.of("post_step")]
            result = await runner.resume_async(paused, "yes")

        assert "ready" in ended
        assert result.step_history[0].output == {"asks": "yes", "goes": "ready"}

    async def test_a_loop_goes_on_where_it_was(self, flujo: Open) -> None:
        async with flujo(made.in_a_loop, context_model=Diary) as runner:
            result = await runner.resume_async(await runner.run_async(1), "yes")

        (loop, _) = result.step_history
        assert (loop.output, loop.attempts, [part.name for part in loop.step_history]) == ("yes", 1, ["inc", "ask"])


class TestTraces:
    async def test_the_root_and_its_children_have_their_attributes(self, flujo: Open) -> None:
        limits = UsageLimits(total_cost_usd_limit=2.0, total_tokens_limit=100)
        async with flujo(made.plain, usage_limits=limits) as runner:
            tree = (await runner.run_async(1, run_id="traced")).trace_tree

        assert (tree.name, tree.status) == ("pipeline_run", "completed")
        assert tree.attributes == {
            "flujo.run_id": "traced",
            "flujo.pipeline.name": "plain",
            "flujo.pipeline.version": "latest",
            "flujo.input": "1",
            "flujo.budget.initial_cost_usd": 2.0,
            "flujo.budget.initial_tokens": 100,
        }
        child = tree.children[0]
        latency = child.attributes.pop("latency_s")
        assert (child.name, child.status, latency >= 0) == ("inc", "completed", True)
        assert child.attributes == {
            "flujo.step.type": "step",
            "flujo.step.policy": "agent",
            "step_input": "1",
            "flujo.attempt_number": 1,
            "flujo.budget.quota_before_usd": 2.0,
            "flujo.budget.quota_before_tokens": 100,
            "success": True,
            "flujo.budget.actual_cost_usd": 0.0,
            "flujo.budget.actual_tokens": 0,
            "flujo.cache.hit": False,
        }

    async def test_a_pause_its_answer_and_iterations_are_events(self, flujo: Open) -> None:
        async with flujo(made.in_a_loop, context_model=Diary) as runner:
            paused = await runner.run_async(1)
            tree = (await runner.resume_async(paused, "yes")).trace_tree

        def events(span: Any) -> set[str]:
            return {event.name for event in span.events}.union(*(events(child) for child in span.children))

        assert {"flujo.paused", "flujo.resumed", "loop.iteration"} <= events(tree)
        assert (paused.trace_tree.status, tree.status) == ("paused", "completed")

    async def test_a_failed_run_is_traced_to_the_step_that_failed(self, flujo: Open) -> None:
        tree = (await run(flujo(made.failing))).trace_tree

        assert (tree.status, [child.status for child in tree.children]) == ("failed", ["completed", "failed"])

    @pytest.mark.parametrize("value", [9, 1])
    async def test_the_branch_that_ran_is_traced(self, flujo: Open, value: int) -> None:
        tree = (await run(flujo(choosing), value)).trace_tree

        assert tree.children[0].attributes["executed_branch_key"] == ("big" if value == 9 else "small")


class Memory(InMemoryBackend):
    """Says when a run has reached a status: on a fleet its caller does not wait for that."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = asyncio.Condition()

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        await super().save_state(run_id, state)
        async with self.changed:
            self.changed.notify_all()

    async def delete_state(self, run_id: str) -> None:
        await super().delete_state(run_id)
        async with self.changed:
            self.changed.notify_all()

    async def until(self, run_id: str, status: str | None) -> dict[str, Any]:
        """Wait until a run is kept with a status, or, with None, is not kept any more."""
        while True:
            async with self.changed:
                state = await self.load_state(run_id)
                if (state or {}).get("status") == status:
                    return state or {}
                await asyncio.wait_for(self.changed.wait(), 30)


class TestState:
    async def test_a_run_that_its_budget_ended_is_kept_as_failed(self, flujo: Open) -> None:
        backend, limits = Memory(), UsageLimits(total_tokens_limit=1)
        async with flujo(made.short_of_both, usage_limits=limits, state_backend=backend) as runner:
            with pytest.raises(UsageLimitExceededError):
                await runner.run_async(1, run_id="kept-short")
            state = await backend.until("kept-short", "failed")

        assert "Token limit of 1 exceeded" in state["error_message"]

    async def test_in_process_a_paused_run_is_kept_with_its_index_and_its_input(self) -> None:
        """On a fleet it waits in Redis."""
        backend = Memory()
        async with Flujo(made.asking, context_model=Diary, state_backend=backend) as runner:
            await runner.run_async(1, run_id="kept-paused")
            state = await backend.until("kept-paused", "paused")

        assert (state["current_step_index"], state["last_step_output"]) == (1, 2)
        assert state["pipeline_context"]["pause_message"] == "first of 2?"

    async def test_completed_runs_may_be_forgotten_and_others_stay(self, flujo: Open) -> None:
        backend = Memory()
        async with flujo(made.plain, state_backend=backend) as runner:
            await runner.run_async(1, run_id="kept-other")
            await backend.until("kept-other", "completed")
        async with flujo(made.plain, state_backend=backend, delete_on_completion=True) as runner:
            await runner.run_async(1, run_id="kept-not")
            await backend.until("kept-not", None)

        assert await backend.load_state("kept-other") is not None
