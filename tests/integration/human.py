"""Pipelines that ask humans, for workers and for the in-process mode alike."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from flujo_client import Pipeline, PipelineContext, StateMachineStep, Step, StepRun, step
from flujo_client.protocol.errors import PausedException
from tests.integration.pipelines import ledger, pass_gate


class Approval(BaseModel):
    approved: bool
    by: str


@step(expected_tokens=10)
async def prepare(text: str, run: StepRun) -> str:
    ledger("bill", run)
    run.usage.add(tokens=10)
    return text.upper()


@step
async def conclude(approval: Approval, *, context: PipelineContext) -> str:
    return f"{approval.by}: {approval.approved}, asked {len(context.hitl_history)} times"


@step
async def gated(text: str) -> str:
    await pass_gate(text)
    return text


@step
async def doubt(text: str) -> Approval:
    raise PausedException(f"What of {text}?")


def _never(output: Any, context: PipelineContext) -> bool:
    return bool(output["approved"] if isinstance(output, dict) else output.approved)


def _again(output: Any, context: PipelineContext, done: int) -> str:
    return f"try {done}"


ask = Step.human_in_the_loop("ask", message_for_user="Publish {{ previous_step }}?", input_schema=Approval)

approval = Pipeline([prepare, ask, conclude], name="approval")
doubtful = Pipeline([doubt, conclude], name="doubtful-human")
both = Pipeline(
    [
        Step.parallel(
            "both",
            {
                "left": Step.human_in_the_loop("left", message_for_user="left?"),
                "right": Step.human_in_the_loop("right", message_for_user="right?"),
                "other": gated,
            },
        )
    ],
    name="both-human",
)
talk = Pipeline(
    [Step.loop_until("talk", prepare >> ask, _never, max_loops=3, iteration_input_mapper=_again)], name="talk"
)
expiring = Pipeline(
    [
        Step.human_in_the_loop(
            "ask",
            input_schema=Approval,
            expires_in_s=1.0,
            on_expiry="answer",
            default_answer={"approved": False, "by": "nobody"},
            remind_after_s=[0.2],
        ),
        conclude,
    ],
    name="expiring-human",
)


@step
async def retry_later(answer: str) -> str:
    return f"later: {answer}"


talking = Pipeline(
    [
        StateMachineStep(
            name="talk",
            states={"ask": Step.human_in_the_loop("question") >> prepare, "later": retry_later},
            start_state="ask",
            end_states=["later"],
            transitions=[{"from": "ask", "on": "pause", "to": "later"}],
        )
    ],
    name="talking-human",
)
