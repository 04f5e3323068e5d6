"""Agents of pydantic-ai at the top level of a module, as steps for workers and for the in-process mode alike."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from flujo_client import Pipeline, Step, step


class City(BaseModel):
    name: str
    people: int


def _answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Look three times, then answer; a model whose price is known."""
    looked = sum(isinstance(part, ToolCallPart) for message in messages for part in message.parts)
    if looked < 3:
        return ModelResponse(parts=[ToolCallPart("look", {"place": f"place {looked}"})])
    return ModelResponse(parts=[TextPart("nowhere")])


searcher = Agent(FunctionModel(_answer, model_name="gpt-4o"), name="searcher")


@searcher.tool_plain
def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


describer = Agent(TestModel(custom_output_args={"name": "Paris", "people": 2}), output_type=City)


@step
async def count_people(city: City) -> int:
    return city.people


searching = Pipeline(
    [
        Step(name="search", agent="tests.integration.model_agents:searcher"),
        Step(name="describe", agent=describer),
        count_people,
    ],
    name="searching",
)
endless = Pipeline([Step(name="search", agent=searcher)], name="endless")
