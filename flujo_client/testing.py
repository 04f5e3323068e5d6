"""Helpers for tests of pipelines: agents and plugins that say what they are told to, and claims about results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flujo_client.dsl.step import Step
from flujo_client.protocol.attachments import PluginOutcome
from flujo_client.protocol.results import PipelineResult
from flujo_client.runner import Flujo

__all__ = [
    "DummyPlugin",
    "StubAgent",
    "assert_context_updated",
    "assert_pipeline_result",
    "assert_validator_failed",
    "gather_result",
    "override_agent",
]


class StubAgent:
    """Gives its outputs one after the other, the last one again and again; raises those that are exceptions.

    Attributes:
        inputs: What it was given.
        call_count: How often it was called.
    """

    def __init__(self, outputs: Sequence[Any]) -> None:
        self._outputs = list(outputs)
        self.inputs: list[Any] = []

    @property
    def call_count(self) -> int:
        """How often it was called."""
        return len(self.inputs)

    async def run(self, data: Any = None, **injected: Any) -> Any:
        """The next output."""
        self.inputs.append(data)
        output = self._outputs[min(self.call_count, len(self._outputs)) - 1]
        if isinstance(output, BaseException):
            raise output
        return output


class DummyPlugin:
    """Gives its outcomes one after the other, the last one again and again.

    Attributes:
        call_count: How often it was called.
    """

    def __init__(self, outcomes: Sequence[PluginOutcome]) -> None:
        self._outcomes = list(outcomes)
        self.call_count = 0

    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        """The next outcome."""
        self.call_count += 1
        return self._outcomes[min(self.call_count, len(self._outcomes)) - 1]


async def gather_result(runner: Flujo, value: Any, **options: Any) -> PipelineResult:
    """The result of a run, as `run_result_async` gives it."""
    return await runner.run_result_async(value, **options)


@contextmanager
def override_agent(step: Step[Any, Any], agent: Any) -> Iterator[None]:
    """Have another agent in a step, for as long as the block lasts."""
    before = step.agent
    step.agent = agent
    try:
        yield
    finally:
        step.agent = before


def assert_pipeline_result(result: PipelineResult, expected_output: Any = None) -> None:
    """Claim that a run succeeded, and with this output if one is given."""
    assert result.success, f"the run did not succeed: {[part.feedback for part in result.step_history]}"
    if expected_output is not None:
        assert result.output == expected_output, f"{result.output!r} is not {expected_output!r}"


def assert_validator_failed(result: PipelineResult, name: str, feedback: str | None = None) -> None:
    """Claim that a validator refused an output of a run.

    Args:
        name: Of the validator; stands in the feedback of the step.
        feedback: Stands there as well, if it is given.
    """
    told = [part.feedback or "" for part in result.step_history if not part.success]
    assert any(name in text and (feedback or "") in text for text in told), f"{name} refused nothing: {told}"


def assert_context_updated(result: PipelineResult, **fields: Any) -> None:
    """Claim that a run's final context has these values."""
    context = result.final_pipeline_context
    for name, value in fields.items():
        found = getattr(context, name, None)
        assert found == value, f"{name} is {found!r}, not {value!r}"
