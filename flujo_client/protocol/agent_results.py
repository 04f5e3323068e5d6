"""What an agent may return to say what it used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FlujoAgentResult", "FlujoAgentUsage", "TurnEnd"]


@dataclass(frozen=True, slots=True)
class FlujoAgentUsage:
    """Tokens, and what they cost if the agent knows it; if it does not, they are priced by the model's name."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class FlujoAgentResult:
    """An output with its usage. The step's output is `output` alone.

    Attributes:
        cost_usd: Of the whole answer, USD; None if unknown.
        token_counts: Of the whole answer; None to take those of the usage.
        model: Such as `openai:gpt-4o`; tokens without a cost are priced by it.
    """

    output: Any
    reported_usage: FlujoAgentUsage | None = None
    cost_usd: float | None = None
    token_counts: int | None = None
    model: str | None = None

    def usage(self) -> FlujoAgentUsage | None:
        """What the agent used; None if it does not say."""
        return self.reported_usage


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """What came of one turn of a granular step.

    Attributes:
        is_complete: Whether that was the last.
        output: Of the last one.
        history: What the turn adds to the history, as JSON values.
    """

    is_complete: bool
    output: Any
    history: list[Any]
