"""Granular steps in process: histories, fingerprints, blobs, and what an agent's turns may be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from flujo_client import (
    Flujo,
    GranularResumeError,
    GranularStep,
    LoopStep,
    PausedException,
    Pipeline,
    PipelineContext,
    PipelineResult,
    Step,
)
from flujo_client.metering.turns import facts_of
from flujo_worker.policies.granular import _newest


class Worker:
    """Works for some turns."""

    def __init__(self, turns: int = 2, size: int = 0) -> None:
        self.turns = turns
        self.size = size
        self.given: list[list[Any]] = []
        self.system_prompt = "work"

    async def run(self, data: Any, *, history: list[Any] | None = None) -> dict[str, Any]:
        self.given.append(list(history or []))
        return {"is_complete": len(self.given) == self.turns, "text": "x" * self.size}


class Forgetful(Worker):
    """Becomes another agent after its first turn."""

    async def run(self, data: str, *, history: list[Any] | None = None) -> dict[str, Any]:
        answer = await super().run(data, history=history)
        self.system_prompt = "work harder"
        return answer


def _run(pipeline: Pipeline, value: Any = "go") -> PipelineResult:
    return Flujo(pipeline).run(value)


def _state(result: PipelineResult) -> dict[str, Any]:
    assert isinstance(result.final_pipeline_context, PipelineContext)
    state = result.final_pipeline_context.granular_state
    assert state is not None
    return state


def test_it_is_a_loop_of_a_turn_that_has_its_terms() -> None:
    (loop,) = Step.granular("work", Worker(), max_turns=7, history_max_tokens=5, max_retries=3, timeout_s=2).steps

    assert isinstance(loop, LoopStep)
    (turn,) = loop.loop_body_pipeline.steps
    assert isinstance(turn, GranularStep)
    assert (loop.name, loop.max_loops, turn.name) == ("work", 7, "work_turn")
    assert (turn.history_max_tokens, turn.blob_threshold_bytes, turn.enforce_idempotency) == (5, 20_000, False)
    assert (turn.config.max_retries, turn.config.timeout_s) == (3, 2)


def test_each_turn_gets_the_same_input_and_what_was_said_before() -> None:
    agent = Worker(turns=3)

    result = _run(Step.granular("work", agent))

    assert [[entry["turn"] for entry in given] for given in agent.given] == [[], [0], [0, 1]]
    assert result.output == {"is_complete": True, "text": ""}
    assert _state(result)["turn_index"] == 3


def test_an_answer_that_does_not_speak_of_turns_ends_them() -> None:
    async def once(text: str) -> str:
        return text.upper()

    assert _run(Step.granular("work", once)).output == "GO"


def test_a_sync_agent_has_turns_as_well() -> None:
    calls: list[int] = []

    def twice(text: str) -> dict[str, Any]:
        calls.append(1)
        return {"is_complete": len(calls) == 2, "final_output": text}

    assert _run(Step.granular("work", twice)).output == "go"


def test_its_input_may_be_a_template() -> None:
    assert _run(Step.granular("work", Agent(TestModel()), "Say {{ previous_step }}")).success


def test_large_entries_are_kept_beside_the_context_and_come_back_whole() -> None:
    agent = Worker(turns=3, size=100)

    result = _run(Step.granular("work", agent, blob_threshold_bytes=50))

    assert [entry["output"]["text"] for entry in agent.given[-1]] == ["x" * 100] * 2
    assert all(entry["bytes"] > 100 for entry in _state(result)["history"])


def test_a_history_that_is_too_long_loses_its_oldest_entries_but_the_first() -> None:
    entries = [{"turn": turn, "text": "x" * 36} for turn in range(6)]

    assert _newest(entries, 1_000) == entries
    assert [entry["turn"] for entry in _newest(entries, 60)] == [0, 3, 4, 5]
    assert [entry["turn"] for entry in _newest(entries, 1)] == [0, 5]


def test_another_agent_does_not_go_on_with_the_turns_of_the_first() -> None:
    with pytest.raises(GranularResumeError, match="first 1 turns") as raised:
        _run(Step.granular("work", Forgetful()))

    assert raised.value.data["irrecoverable"] is True


def test_compat_lets_the_prompt_change_and_not_the_tools() -> None:
    assert _run(Step.granular("work", Forgetful(), resume_fingerprint_mode="compat")).success

    class Rearmed(Worker):
        async def run(self, data: str, *, history: list[Any] | None = None) -> dict[str, Any]:
            answer = await super().run(data, history=history)
            self.tools = (_run,)
            return answer

    with pytest.raises(GranularResumeError):
        _run(Step.granular("work", Rearmed(), resume_fingerprint_mode="compat"))


def test_the_facts_of_a_model_agent_are_its_prompt_model_tools_and_settings() -> None:
    agent = Agent(TestModel(), instructions="Be brief.", model_settings={"temperature": 0.5})

    @agent.tool_plain
    def look(place: str) -> str:
        return place

    facts = facts_of(agent)

    assert facts["prompt"] == ["Be brief."]
    assert (facts["model"], facts["provider"], list(facts["tools"])) == ("test", "test", ["look"])
    assert "0.5" in facts["settings"]
    assert facts_of(Agent("test:model", defer_model_check=True))["model"] == "test:model"


def test_two_of_them_in_branches_do_not_disturb_each_other() -> None:
    one, other = Worker(turns=2), Worker(turns=3)

    result = _run(Pipeline([Step.parallel("both", {"a": Step.granular("a", one), "b": Step.granular("b", other)})]))

    assert result.success, result.step_history[0].feedback
    assert [len(one.given), len(other.given)] == [2, 3]


def test_one_after_the_other_begins_anew() -> None:
    first, second = Worker(turns=2), Worker(turns=2)

    assert _run(Step.granular("a", first) >> Step.granular("b", second)).success
    assert second.given[0] == []


async def test_a_turn_may_pause_and_the_next_goes_on_after_the_answer() -> None:
    asked: list[str] = []

    async def ask_once(text: str, *, context: PipelineContext) -> str:
        asked.append(text)
        if len(asked) == 1:
            raise PausedException("Which one?")
        return f"{text} {context.hitl_history[0].human_response}"

    async with Flujo(Step.granular("work", ask_once)) as flujo:
        paused = await flujo.run_async("buy")
        result = await flujo.resume_async(paused, "that one")

    assert result.output == "buy that one"


def test_an_attempt_that_fails_leaves_no_turn() -> None:
    attempts: list[int] = []

    async def flaky(text: str, *, history: list[Any] | None = None) -> dict[str, Any]:
        attempts.append(len(history or []))
        if len(attempts) == 2:
            raise ValueError("lost")
        return {"is_complete": len(attempts) == 3}

    result = _run(Step.granular("work", flaky))

    assert attempts == [0, 1, 1]
    assert _state(result)["turn_index"] == 2
