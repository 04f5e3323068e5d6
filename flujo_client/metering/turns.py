"""Agents of pydantic-ai turn by turn: one request of the model, and the tools that it asks for. Needs the extra `pydantic-ai`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessagesTypeAdapter
from pydantic_ai.models import Model
from pydantic_ai.toolsets import FunctionToolset

from flujo_client.metering.model_agents import options_of, prompt_of
from flujo_client.protocol.agent_results import TurnEnd

__all__ = ["ModelAgentTurn", "facts_of"]


@dataclass(frozen=True, slots=True)
class ModelAgentTurn:
    """A turn of a pydantic-ai agent, called as a step's function is.

    Attributes:
        agent: Unchanged.
    """

    agent: Agent[Any, Any]

    async def __call__(
        self,
        value: Any,
        *,
        history: Sequence[Any] = (),
        resources: Any = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> TurnEnd:
        """Go on until the model is to be asked a second time, or the agent is done.

        Args:
            value: The prompt; of the first turn alone.
            history: The messages so far, as JSON values.
        """
        settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        known = ModelMessagesTypeAdapter.validate_python(list(history))
        prompt = None if known else prompt_of(value)
        options = options_of(self.agent, resources, settings)
        async with self.agent.iter(prompt, message_history=known, **options) as run:
            node: Any = run.next_node
            asked = False
            while not Agent.is_end_node(node):
                if Agent.is_model_request_node(node):
                    if asked:
                        return TurnEnd(False, None, _new([*run.all_messages(), node.request], known))
                    asked = True
                node = await run.next(node)
            assert run.result is not None
            return TurnEnd(True, run.result.output, _new(run.all_messages(), known))


def facts_of(agent: Agent[Any, Any]) -> dict[str, Any]:
    """What an agent's history depends on."""
    model = agent.model
    tools = [
        tool for toolset in agent.toolsets if isinstance(toolset, FunctionToolset) for tool in toolset.tools.values()
    ]
    told = [getattr(instruction, "instruction", instruction) for instruction in agent._instructions]
    prompts = [*agent._system_prompts, *told]
    return {
        "prompt": [prompt for prompt in prompts if isinstance(prompt, str)],
        "model": model.model_name if isinstance(model, Model) else str(model),
        "provider": model.system if isinstance(model, Model) else "",
        "tools": {tool.name: tool.function_schema.json_schema for tool in tools},
        "settings": str(agent.model_settings),
    }


def _new(messages: Sequence[Any], known: Sequence[Any]) -> list[Any]:
    added: list[Any] = ModelMessagesTypeAdapter.dump_python(list(messages[len(known) :]), mode="json")
    return added
