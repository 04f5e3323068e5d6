"""What a worker takes into its registry from modules."""

from __future__ import annotations

import sys
import types

import pytest

from flujo_client import Pipeline, Step
from flujo_client.protocol.errors import ConfigurationError
from flujo_worker.registry import Registry


def test_a_module_with_a_lambda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nameless")
    module.pipeline = Pipeline([Step.from_callable(lambda x: x, name="inc")], name="nameless")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nameless", module)

    with pytest.raises(ConfigurationError, match=r"'nameless' has steps that cannot be queued: .*<lambda>"):
        Registry.from_modules("nameless")


class Agent:
    async def run(self, number: int) -> int:
        return number


def test_two_objects_that_would_share_a_name_are_refused() -> None:
    registry = Registry()
    registry.add(Pipeline([Step(name="ask", agent=Agent())], name="one"))

    with pytest.raises(ConfigurationError, match=r"Two different objects are known as '.*:Agent#ask'"):
        registry.add(Pipeline([Step(name="ask", agent=Agent())], name="two"))
