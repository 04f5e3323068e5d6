"""Human pauses in process: what a run asks, who answers, and what becomes of the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic import ValidationError as PydanticValidationError

from flujo_client import Flujo, Pipeline, PipelineContext, PipelineResult, RunStatus, Step, StepRun, UsageLimits, step
from flujo_client.driver import reader_of
from flujo_client.pauses import PauseDesk
from flujo_client.protocol.errors import (
    ConfigurationError,
    HitlPolicyError,
    PausedException,
    ResumeError,
    TypeMismatchError,
    UsageLimitExceededError,
)
from flujo_client.protocol.outcomes import Paused
from flujo_client.protocol.results import OnPauseRequestedPayload, PostStepPayload


class Verdict(BaseModel):
    approved: bool
    note: str = ""


@step
async def draft(topic: str) -> str:
    return f"about {topic}"


@step
async def publish(answer: Any) -> str:
    return f"published: {answer}"


@step
async def judge(verdict: Verdict) -> str:
    return "yes" if verdict.approved else "no"


def _resume(flujo: Flujo, paused: PipelineResult, answer: Any) -> PipelineResult:
    async def work() -> PipelineResult:
        async with flujo:
            return await flujo.resume_async(paused, answer)

    return asyncio.run(work())


def test_a_run_pauses_with_its_question_and_goes_on_with_the_answer() -> None:
    ask = Step.human_in_the_loop("ask", message_for_user="Publish '{{ previous_step }}'?")
    flujo = Flujo(draft >> ask >> publish)

    paused = flujo.run("cats")

    context = paused.final_pipeline_context
    assert (paused.status, paused.success) == (RunStatus.PAUSED, False)
    assert [part.name for part in paused.step_history] == ["draft"]
    assert (context.status, context.pause_message) == ("paused", "Publish 'about cats'?")
    assert context.paused_step_input == "about cats"

    result = _resume(flujo, paused, "go")

    context = result.final_pipeline_context
    assert (result.status, result.output) == (RunStatus.COMPLETED, "published: go")
    assert [(part.name, part.output) for part in result.step_history][1] == ("ask", "go")
    assert (context.status, context.user_input, context.step_outputs["ask"]) == ("completed", "go", "go")
    (told,) = context.hitl_history
    assert (told.message_to_human, told.human_response) == ("Publish 'about cats'?", "go")
    assert [turn.role for turn in context.conversation_history] == ["assistant", "user"]


def test_without_a_message_the_input_is_the_question() -> None:
    paused = Flujo(draft >> Step.human_in_the_loop("ask")).run("cats")

    assert paused.final_pipeline_context.pause_message == "about cats"


def test_a_paused_result_survives_json() -> None:
    flujo = Flujo(draft >> Step.human_in_the_loop("ask") >> publish)
    rebuilt = PipelineResult.model_validate_json(flujo.run("cats").model_dump_json())

    assert _resume(flujo, rebuilt, "go").output == "published: go"


def test_an_answer_must_fit_the_schema_and_the_run_stays_paused() -> None:
    flujo = Flujo(draft >> Step.human_in_the_loop("ask", input_schema=Verdict) >> judge)
    paused = flujo.run("cats")
    with pytest.raises(PydanticValidationError):
        _resume(flujo, paused, {"note": "hm"})

    result = _resume(flujo, paused, {"approved": True})

    assert result.output == "yes"
    assert result.step_history[1].output == Verdict(approved=True)


def test_a_step_that_raises_pauses_keeps_its_context_and_has_the_answer_as_output() -> None:
    class Notes(PipelineContext):
        seen: int = 0

    @step
    async def doubt(text: str, *, context: Notes) -> str:
        context.seen += 1
        raise PausedException("Sure?")

    flujo = Flujo(draft >> doubt >> publish, context_model=Notes)
    paused = flujo.run("cats")
    assert (paused.final_pipeline_context.pause_message, paused.final_pipeline_context.seen) == ("Sure?", 1)

    result = _resume(flujo, paused, "sure")

    assert (result.output, result.final_pipeline_context.seen) == ("published: sure", 1)
    assert result.step_history[1].success


def test_the_answer_is_sunk_where_the_step_says() -> None:
    class Notes(PipelineContext):
        choice: str = ""

    flujo = Flujo(draft >> Step.human_in_the_loop("ask", sink_to="choice"), context_model=Notes)

    assert _resume(flujo, flujo.run("cats"), "b").final_pipeline_context.choice == "b"


def test_a_second_pause_is_returned_as_a_success_that_is_paused() -> None:
    flujo = Flujo(Step.human_in_the_loop("one") >> Step.human_in_the_loop("two") >> publish)
    paused = flujo.run("first")
    assert not paused.success

    again = _resume(flujo, paused, "second")
    assert (again.success, again.status) == (True, RunStatus.PAUSED)
    assert again.final_pipeline_context.pause_message == "second"

    assert _resume(flujo, again, "third").output == "published: third"


async def test_whoever_answers_again_is_told_what_became_of_the_question() -> None:
    async with Flujo(Step.human_in_the_loop("ask") >> publish) as flujo:
        await flujo.run_async("x", run_id="r")
        engine = await flujo._opened()
        desk = PauseDesk(engine.state, engine.codec)

        await desk.answer("r", "a")  # nobody has taken it to the run yet

        told = "'ask' (token 0) was answered before, and the first answer counts."
        with pytest.raises(ResumeError) as soon:
            await desk.answer("r", "b")
        assert soon.value.message == (
            f"Pipeline is not paused: run r waits for no answer, its answer is being taken; {told}"
        )
        assert (await flujo.run_async("x", run_id="r")).output == "published: a"
        with pytest.raises(ResumeError) as late:
            await desk.answer("r", "b")
        assert late.value.message == f"Pipeline is not paused: run r waits for no answer, it is completed; {told}"


async def test_whoever_answers_after_its_time_is_told_so() -> None:
    ask = Step.human_in_the_loop("ask", expires_in_s=0.05, on_expiry="answer", default_answer="none")
    async with Flujo(ask >> publish) as flujo:
        await flujo.run_async("x", run_id="r")
        engine = await flujo._opened()
        async for _ in reader_of(engine).events("r"):  # until it has ended
            pass

        with pytest.raises(ResumeError, match=r"the time of 'ask' \(token 0\) was up"):
            await PauseDesk(engine.state, engine.codec).answer("r", "b", "0")


def test_a_pause_is_answered_once() -> None:
    flujo = Flujo(Step.human_in_the_loop("ask") >> publish)
    paused = flujo.run("x", run_id="r")
    _resume(flujo, paused, "a")

    with pytest.raises(
        ResumeError,
        match=r"step 0 waits for no answer, 'ask' \(token 0\) was answered before, and the first answer counts",
    ):
        _resume(flujo, paused, "b")
    assert flujo.run("x", run_id="r").output == "published: a"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (PipelineResult(), "Cannot resume pipeline without context"),
        (PipelineResult(final_pipeline_context=PipelineContext()), "Pipeline is not paused"),
    ],
)
def test_what_is_not_paused_cannot_be_resumed(result: PipelineResult, words: str) -> None:
    with pytest.raises(ResumeError, match=words):
        _resume(Flujo(draft), result, "x")


async def test_branches_beside_a_pause_go_on_and_several_pauses_are_answered_one_by_one() -> None:
    asked = asyncio.Event()
    ran: list[str] = []

    @step
    async def other(text: str) -> str:
        await asked.wait()
        ran.append(text)
        return "done"

    async def note(payload: OnPauseRequestedPayload) -> None:
        if payload.step_name == "b":
            asked.set()

    both = Step.parallel(
        "both",
        {
            "a": Step.human_in_the_loop("a", message_for_user="a?"),
            "b": Step.human_in_the_loop("b", message_for_user="b?"),
            "c": other,
        },
    )
    async with Flujo(both, hooks=[note]) as flujo:
        paused = await flujo.run_async("x")
        assert ran == ["x"]
        assert paused.final_pipeline_context.pause_message == "a?"

        again = await flujo.resume_async(paused, 1)
        assert (again.status, again.final_pipeline_context.pause_message) == (RunStatus.PAUSED, "b?")

        result = await flujo.resume_async(again, 2)

    assert result.output == {"a": 1, "b": 2, "c": "done"}
    told = sorted(turn.human_response for turn in result.final_pipeline_context.hitl_history)
    assert told == [1, 2]


def _until_stop(answer: Any, context: Any) -> bool:
    return bool(answer == "stop")


def _which(value: Any, context: Any) -> str:
    return "ask"


def test_pauses_in_a_loop_and_in_a_conditional_keep_their_place() -> None:
    inside = Step.branch_on("which", _which, {"ask": Step.human_in_the_loop("ask")})
    flujo = Flujo(Pipeline([Step.loop_until("talk", inside, _until_stop, max_loops=3)]) >> publish)

    result = flujo.run("hello")
    for said in ("more", "stop"):
        result = _resume(flujo, result, said)

    assert (result.output, result.step_history[0].attempts) == ("published: stop", 2)
    assert [told.human_response for told in result.final_pipeline_context.hitl_history] == ["more", "stop"]


def test_the_budget_is_the_same_after_a_pause() -> None:
    @step(expected_tokens=60, max_retries=0)
    async def spend(value: Any, run: StepRun) -> str:
        run.usage.add(tokens=60)
        return str(value)

    flujo = Flujo(spend >> Step.human_in_the_loop("ask") >> spend, usage_limits=UsageLimits(total_tokens_limit=100))
    paused = flujo.run("x")
    assert paused.total_tokens == 60

    with pytest.raises(UsageLimitExceededError) as caught:
        _resume(flujo, paused, "go")

    assert caught.value.result.total_tokens == 60


async def test_outcomes_end_with_the_pause() -> None:
    async with Flujo(Step.human_in_the_loop("ask", message_for_user="Go?")) as flujo:
        assert [item async for item in flujo.run_outcomes_async("x")] == [Paused(message="Go?")]


def test_hooks_hear_of_the_pause_and_of_the_step_once_it_is_answered() -> None:
    heard: list[str] = []

    async def hear(payload: OnPauseRequestedPayload | PostStepPayload) -> None:
        heard.append(payload.event_name)

    flujo = Flujo(Step.human_in_the_loop("ask"), hooks=[hear])
    paused = flujo.run("x")
    assert heard == ["on_pause_requested"]
    _resume(flujo, paused, "y")

    assert heard == ["on_pause_requested", "post_step"]


def test_humans_are_not_asked_where_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    @step
    async def doubt(text: str) -> str:
        raise PausedException("Sure?")

    monkeypatch.setenv("FLUJO_ALLOW_HITL", "0")

    with pytest.raises(HitlPolicyError, match="ask"):
        Flujo(Step.human_in_the_loop("ask")).run("x")
    with pytest.raises(HitlPolicyError):
        Flujo(doubt).run("x")


def test_an_answer_that_the_next_step_does_not_take_ends_the_run() -> None:
    flujo = Flujo(Step.human_in_the_loop("ask") >> judge)

    with pytest.raises(TypeMismatchError):
        _resume(flujo, flujo.run("x"), "no verdict")


async def test_when_nobody_answers_in_time_the_default_is_taken_and_reminders_come_before() -> None:
    heard: list[int] = []

    async def hear(payload: OnPauseRequestedPayload) -> None:
        heard.append(payload.reminder)

    ask = Step.human_in_the_loop(
        "ask",
        input_schema=Verdict,
        expires_in_s=0.2,
        on_expiry="answer",
        default_answer={"approved": False},
        remind_after_s=[0.05],
    )
    async with Flujo(ask >> judge, hooks=[hear]) as flujo:
        paused = await flujo.run_async("x", run_id="r")
        assert paused.status is RunStatus.PAUSED
        async with asyncio.timeout(20):
            result = await flujo.run_async("x", run_id="r")
            while result.status is RunStatus.PAUSED:
                await asyncio.sleep(0.02)
                result = await flujo.run_async("x", run_id="r")

    assert (result.output, heard) == ("no", [0, 1])
    assert result.step_history[0].output == Verdict(approved=False)


def test_a_default_answer_must_fit() -> None:
    with pytest.raises(ConfigurationError, match="not 'maybe'"):
        Step.human_in_the_loop("ask", input_schema=Verdict, on_expiry="answer", default_answer="maybe")
