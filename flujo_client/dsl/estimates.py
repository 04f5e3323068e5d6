"""How much an attempt of a step may use, read from the step and its agent before it runs."""

from __future__ import annotations

import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final

from flujo_client.dsl.callables import is_model_agent
from flujo_client.dsl.config import StepConfig
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.pricing import known_price_usd
from flujo_client.protocol.quota import COST, TOKENS, Amounts, UsageEstimate, to_nano_usd

__all__ = ["EstimatorRegistry", "get_estimator_registry", "is_unbilled", "read_estimate"]

#: What calls of models cost that no price list was asked about: (part of the name, USD, tokens).
_RULES_OF_THUMB: Final = (("gpt-4", 0.10, 500), ("o4", 0.10, 500), ("gpt-3.5", 0.02, 300))


class EstimatorRegistry:
    """Rules for estimates; the first whose predicate accepts a step makes its estimate. Fill it in the pipelines' module."""

    def __init__(self) -> None:
        self._rules: list[tuple[Callable[[Any], bool], Callable[[Any], UsageEstimate]]] = []

    def register(
        self, predicate: Callable[[Any], bool], estimator: Callable[[Any], UsageEstimate] | UsageEstimate
    ) -> None:
        """Add a rule after those there are.

        Args:
            predicate: Takes a step.
            estimator: Takes a step, or the estimate itself.
        """
        made = (lambda step: estimator) if isinstance(estimator, UsageEstimate) else estimator
        self._rules.append((predicate, made))

    def find(self, step: Any) -> UsageEstimate | None:
        """The estimate for a step; None if no rule is for it."""
        return next((estimator(step) for predicate, estimator in self._rules if predicate(step)), None)


_ESTIMATORS: Final = EstimatorRegistry()


def get_estimator_registry() -> EstimatorRegistry:
    """The rules that are applied to every step which declares no estimate itself."""
    return _ESTIMATORS


def read_estimate(step: Any) -> Amounts:
    """The estimate of a step, by meter; what is first there of: its config, a rule, its agent.

    A zero that somebody has said is kept: it is an estimate too.

    Args:
        step: Of the DSL.
    """
    config: StepConfig = step.config
    said = {COST: "expected_cost_usd", TOKENS: "expected_tokens"}
    amounts = {COST: to_nano_usd(config.expected_cost_usd), TOKENS: config.expected_tokens}
    known = {meter for meter, name in said.items() if name in config.model_fields_set}
    if not any(amounts.values()):
        rule = _ESTIMATORS.find(step)
        found = rule or _of_agent(step)
        amounts = {COST: to_nano_usd(found.cost_usd), TOKENS: found.tokens, **found.meters}
        known |= set(amounts) if rule else set()
    amounts |= config.expected_meters
    known |= set(config.expected_meters)
    return {meter: max(0, amount) for meter, amount in amounts.items() if amount > 0 or meter in known}


def is_unbilled(step: Any) -> bool:
    """Whether a step calls nothing that costs: adapters and validation."""
    return bool(step.meta.get("is_adapter") or step.meta.get("is_validation_step"))


def _of_agent(step: Any) -> UsageEstimate:
    """What an agent says about itself: nothing for adapters and validation, which call no model."""
    if is_unbilled(step) or step.agent is None:
        return UsageEstimate()
    declared = _of_answer(step.output_type)
    if declared is not None:
        return declared
    model = _model_name(step.resolved_agent)
    if model is None:
        return UsageEstimate()
    thumb = next((rule for part, *rule in _RULES_OF_THUMB if part in model), (0.0, 0))
    most = _most_tokens(step.resolved_agent)
    if most is None:
        return UsageEstimate(cost_usd=thumb[0], tokens=int(thumb[1]))
    prompt = _prompt_bytes(step.resolved_agent)
    price = known_price_usd(model, None, prompt, most)
    return UsageEstimate(cost_usd=thumb[0] if price is None else price, tokens=prompt + most)


def _of_answer(annotation: Any) -> UsageEstimate | None:
    """The defaults of `cost_usd` and `token_counts` of the model that the agent is annotated to return."""
    cls = typing.get_origin(annotation) or annotation
    fields = getattr(cls, "model_fields", None) or {}
    values = [getattr(fields.get(name), "default", None) for name in ("cost_usd", "token_counts")]
    cost_usd, tokens = (value if isinstance(value, int | float) and value > 0 else 0 for value in values)
    return UsageEstimate(cost_usd=float(cost_usd), tokens=int(tokens)) if cost_usd or tokens else None


def _model_name(agent: Any) -> str | None:
    model = getattr(agent, "model_id", None) or getattr(agent, "model", None) or getattr(agent, "model_name", None)
    name = model if isinstance(model, str) else getattr(model, "model_name", None)
    return name if isinstance(name, str) else None


def _prompt_bytes(agent: Any) -> int:
    """Of what an agent sends with every call, whatever its input: prompts and tools. A token has one byte at least."""
    if not is_model_agent(agent):
        prompt = getattr(agent, "system_prompt", "")
        return len(prompt.encode()) if isinstance(prompt, str) else 0
    facts = import_module("flujo_client.metering.turns").facts_of(agent)
    return sum(len(prompt.encode()) for prompt in facts["prompt"]) + len(json_bytes(facts["tools"]))


def _most_tokens(agent: Any) -> int | None:
    settings = getattr(agent, "model_settings", None)
    most = settings.get("max_tokens") if isinstance(settings, Mapping) else getattr(agent, "max_tokens", None)
    return most if isinstance(most, int) and most > 0 else None
