"""`GranularStep`: one turn of an agent's work. `granular` lets an agent work turn by turn, each turn a committed step."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field

from flujo_client.dsl.callables import Signature, is_model_agent, reference_of, takes
from flujo_client.dsl.composites import composite
from flujo_client.dsl.factories import of_options
from flujo_client.dsl.loop import LoopStep
from flujo_client.dsl.pipeline import Pipeline, Step
from flujo_client.protocol.leaves import TurnSpec

__all__ = ["GranularStep", "granular", "has_finished"]

#: What an agent of one's own may say about itself; of each the text, or the name, counts.
_FACTS: Final = ("system_prompt", "instructions", "model_id", "model", "provider", "model_settings")


@composite("granular_turn")
class GranularStep(Step[Any, Any]):
    """One turn of an agent's work; stands in a loop, as `Step.granular` makes it.

    Its state is `context.granular_state`: `turn_index` (turns done), `history`, `is_complete`, `final_output`, `fingerprint`
    and `compat_fingerprint`. It is committed with the turn, so that a crash costs one turn at the most.

    * An agent of pydantic-ai does one request of its model, and what tools that asks for, in a turn.
    * Any other agent is called once in a turn. If it takes `history` it gets what it returned in the turns before, as JSON
      values. It is done, unless its answer has an `is_complete` that is false; of an answer with a `final_output` that is
      the output.

    Attributes:
        history_max_tokens: Of the history that an agent gets, about; the first entry stays, then the oldest go.
        blob_threshold_bytes: An entry of the history, or an output, that is larger as JSON is kept beside the context.
        enforce_idempotency: The agent's resources are a copy with `_idempotency_key`: the same for every attempt of a turn.
        resume_fingerprint_mode: What must stay the same between two turns: `strict` (the default) input, prompt, model,
            provider, tools and settings, `compat` input, model, provider and the tools' names. If it does not, a newer
            release of the agent say, the run ends with a `GranularResumeError`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    history_max_tokens: int = Field(128_000, gt=0)
    blob_threshold_bytes: int = Field(20_000, gt=0)
    enforce_idempotency: bool = False
    resume_fingerprint_mode: Literal["strict", "compat"] | None = None

    @property
    def function(self) -> str:
        """See `StepDefinition.function`: its own, since another step may have the same agent without turns."""
        return reference_of(self.agent, self.name, attached=True)

    @property
    def signature(self) -> Signature:
        """The agent, analysed; it may ask for its `history` as well."""
        agent, whole = self.resolved_agent, super().signature
        if is_model_agent(agent):
            turns = importlib.import_module("flujo_client.metering.turns")  # needs the extra, as the agent did
            return replace(whole, call=turns.ModelAgentTurn(agent), injects=whole.injects | {"history"})
        return replace(whole, injects=whole.injects | {"history"}) if takes(whole.call, "history") else whole

    @property
    def output_type(self) -> Any:
        """Anything: a turn that is not the last has no output."""
        return Any

    @property
    def turn(self) -> TurnSpec:
        """See `Step.turn`."""
        return TurnSpec(
            history_max_tokens=self.history_max_tokens,
            blob_threshold_bytes=self.blob_threshold_bytes,
            enforce_idempotency=self.enforce_idempotency,
            fingerprint=self.resume_fingerprint_mode or "strict",
        )

    @property
    def turn_facts(self) -> Mapping[str, Mapping[str, Any]]:
        """See `StepDefinition.turn_facts`."""
        agent = self.resolved_agent
        if is_model_agent(agent):
            turns = importlib.import_module("flujo_client.metering.turns")
            facts: Mapping[str, Any] = turns.facts_of(agent)
        else:
            facts = {name: str(getattr(agent, name)) for name in _FACTS if hasattr(agent, name)}
            tools = getattr(agent, "tools", ())
            facts["tools"] = {getattr(tool, "__name__", str(tool)): "" for tool in tools}
        settings = {name: getattr(self.config, name) for name in ("temperature", "top_k", "top_p")}
        lasting = {name: facts[name] for name in ("model", "model_id", "provider") if name in facts}
        return {"strict": {**facts, "config": settings}, "compat": {**lasting, "tools": sorted(facts["tools"])}}


def has_finished(output: Any, context: Any) -> bool:
    """The loop's exit condition: the turn before was the last."""
    state = context["granular_state"] if isinstance(context, dict) else context.granular_state
    return bool(state and state["is_complete"])


@composite("granular")
def granular(name: str, agent: Any, input_: Any = None, *, max_turns: int = 20, **options: Any) -> Pipeline:
    """Let an agent work turn by turn. Each turn is a queued step that is committed, with its context, before the next begins.

    The run's context keeps the state, so its model needs a field `granular_state`, as `PipelineContext` has.

    Args:
        agent: Of pydantic-ai, or as of any step.
        input_: Instead of the output of the step before; may hold templates.
        max_turns: At the most; an agent that is not done then has failed, with `reached max_loops`.
        options: Fields of `GranularStep` and of `StepConfig`, for each turn.

    Returns:
        A pipeline of a loop `name` over the step `<name>_turn`; its output is the agent's.
    """
    turn = of_options(GranularStep, f"{name}_turn", agent, {**options, "input_": input_})
    loop = LoopStep(
        name=name,
        loop_body_pipeline=turn,
        exit_condition_callable=has_finished,
        max_loops=max_turns,
        same_input=True,
    )
    return Pipeline([loop])
