"""How much an attempt used, where the step did not say so itself; and the output inside an agent's answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flujo_client.protocol.agent_results import FlujoAgentResult
from flujo_client.protocol.pricing import price_usd
from flujo_client.protocol.quota import COST, REQUESTS, TOKENS, Amounts, add_amounts, used_amounts
from flujo_client.protocol.results import PipelineResult
from flujo_worker.policies.stack import Proceed, StepCall

__all__ = ["Answer", "UsagePolicy", "read_answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An agent's answer, taken apart.

    Attributes:
        output: What the step goes on with.
        usage: What can be counted without a price list, by meter.
        unpriced: Input and output tokens whose cost the agent does not know; None if there are none.
        model: By which those are priced, with its provider.
    """

    output: Any
    usage: Amounts
    unpriced: tuple[int, int] | None = None
    model: tuple[str | None, str | None] = (None, None)


class UsagePolicy:
    """Measures each answer of an agent as soon as it is there: whatever fails later, it was used.

    Args:
        strict: Tokens without a price fail the run.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict

    async def __call__(self, call: StepCall, proceed: Proceed) -> Any:
        """See `Policy`.

        Raises:
            UsageAmountError: The answer says what is no amount.
            PricingNotConfiguredError: Its tokens have no price, and that is an error here.
        """
        answer = read_answer(await proceed(call), call.definition.resolved_agent)
        attempt = call.attempt
        attempt.measured = add_amounts(attempt.measured, answer.usage)
        if answer.unpriced is not None and not attempt.meter.used:
            cost_usd = price_usd(*answer.model, *answer.unpriced, strict=self._strict)
            attempt.measured = add_amounts(attempt.measured, used_amounts(0, cost_usd, {}))
        return answer.output


def read_answer(answer: Any, agent: Any) -> Answer:
    """Take an agent's answer apart.

    Args:
        answer: What its function returned.
        agent: May name its model, in `model_id` or `model`.

    Returns:
        Of a `FlujoAgentResult`, and of any object with `output` and `usage` in tokens, the output alone. An answer with
        `cost_usd` and `token_counts` says itself what it used, a nested run's result has its totals, and a bare string
        counts as one token, as users of the single-process library know it. Who used tokens or money asked a model once at
        least.
    """
    if isinstance(answer, PipelineResult):
        return Answer(answer, add_amounts({}, answer.usage))
    if isinstance(answer, FlujoAgentResult):
        return _of_flujo_result(answer, agent)
    cost_usd = getattr(answer, "cost_usd", None)
    if isinstance(cost_usd, int | float):
        tokens = getattr(answer, "token_counts", 0)
        used = used_amounts(tokens if isinstance(tokens, int) else 0, cost_usd, {})
        return Answer(answer, {**used, REQUESTS: 1} if used else used)
    if isinstance(answer, str):
        return Answer(answer, {TOKENS: 1})
    tokens_used = None if isinstance(answer, dict) else _tokens_of(getattr(answer, "usage", None))
    if tokens_used is None or not hasattr(answer, "output"):
        return Answer(answer, {})
    used = used_amounts(sum(tokens_used), 0.0, {REQUESTS: _requests_of(answer.usage)})
    return Answer(answer.output, used, tokens_used, _model_of(answer, agent))


def _of_flujo_result(answer: FlujoAgentResult, agent: Any) -> Answer:
    usage = answer.usage()
    tokens = answer.token_counts if answer.token_counts is not None else usage.total_tokens if usage else 0
    cost_usd = answer.cost_usd if answer.cost_usd is not None else usage.cost_usd if usage else None
    if cost_usd is not None or usage is None:
        used = used_amounts(tokens, cost_usd or 0.0, {})
        return Answer(answer.output, {**used, REQUESTS: 1} if used else used)
    model = (answer.model, None) if answer.model else _model_of(answer, agent)
    counted = {meter: amount for meter, amount in used_amounts(tokens, 0.0, {REQUESTS: 1}).items() if meter != COST}
    return Answer(answer.output, counted, (usage.input_tokens, usage.output_tokens), model)


def _tokens_of(usage: Any) -> tuple[int, int] | None:
    """Input and output tokens, as pydantic-ai and those who follow it name them; None if it is no such usage."""
    told = usage() if callable(usage) and not hasattr(usage, "input_tokens") else usage
    counts = (getattr(told, "input_tokens", None), getattr(told, "output_tokens", None))
    return None if not all(isinstance(count, int) for count in counts) else (int(counts[0] or 0), int(counts[1] or 0))


def _requests_of(usage: Any) -> int:
    """How often an agent asked its model, as pydantic-ai counts it; at least once."""
    told = usage() if callable(usage) and not hasattr(usage, "input_tokens") else usage
    requests = getattr(told, "requests", 1)
    return max(1, requests) if isinstance(requests, int) else 1


def _model_of(answer: Any, agent: Any) -> tuple[str | None, str | None]:
    """A model's name and its provider: as the answer says, else as the agent does."""
    response: Any = getattr(answer, "response", None)
    if isinstance(getattr(response, "model_name", None), str):
        return response.model_name, getattr(response, "provider_name", None)
    model = getattr(agent, "model_id", None) or getattr(agent, "model", None)
    name = model if isinstance(model, str) else getattr(model, "model_name", None)
    return (name if isinstance(name, str) else None), None
