"""Agents that work turn by turn, for workers and for the in-process mode alike."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from flujo_client import AppResources, Pipeline, PipelineContext, Step, StepRun, step
from tests.integration.pipelines import ledger, pass_gate


class Desk(PipelineContext):
    keys: list[str] = Field(default_factory=list)


class Tools(AppResources):
    opened: int = 0


flujo_resources = Tools()
flujo_context_model = Desk


def _answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Look twice, then answer."""
    looked = sum(isinstance(part, ToolCallPart) for message in messages for part in message.parts)
    if looked < 2:
        return ModelResponse(parts=[ToolCallPart("look", {"place": f"place {looked}"})])
    return ModelResponse(parts=[TextPart(f"nothing after {looked} looks")])


looker = Agent(FunctionModel(_answer, model_name="gpt-4o"), name="looker", instructions="Look.")


@looker.tool_plain
def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


class Writer:
    """An agent of one's own: three drafts, each longer than the one before."""

    system_prompt = "Write."

    async def run(
        self, topic: str, *, context: Desk, resources: Tools, run: StepRun, history: list[Any] | None = None
    ) -> dict[str, Any]:
        run.usage.add(tokens=10)
        context.keys.append(getattr(resources, "_idempotency_key", "none"))
        drafts = [entry["output"]["draft"] for entry in history or []]
        draft = f"{drafts[-1] if drafts else topic}!"
        return {"draft": draft, "is_complete": len(drafts) == 2, "final_output": draft}


writer = Writer()


class Slow:
    """Waits in its second turn until a test lets it go on."""

    async def run(self, word: str, *, run: StepRun, history: list[Any] | None = None) -> dict[str, Any]:
        done = len(history or [])
        ledger("started", run)
        if done == 1:
            await pass_gate("turn")
        return {"is_complete": done == 2, "final_output": f"{word} {done}"}


@step
async def shout(text: str) -> str:
    return text.upper()


looking = Pipeline([Step.granular("look_around", looker), shout], name="looking")
writing = Pipeline(
    [Step.granular("write", writer, enforce_idempotency=True, blob_threshold_bytes=10), shout], name="writing"
)
slow_turns = Pipeline([Step.granular("slow", Slow())], name="slow_turns")
unfinished = Pipeline([Step.granular("scribble", writer, max_turns=2)], name="unfinished")
