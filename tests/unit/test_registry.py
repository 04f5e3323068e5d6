"""What a worker takes into its registry from modules."""

from __future__ import annotations

import asyncio
import sys
import types

import pytest

from flujo_client import Pipeline, Step
from flujo_client.protocol.errors import ConfigurationError
from flujo_client.protocol.keys import POOL
from flujo_client.protocol.needs import needs_of
from flujo_client.protocol.submission import submit_run
from flujo_worker.embedded import EmbeddedEngine
from flujo_worker.registry import Registry


def test_a_module_with_a_lambda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nameless")
    module.pipeline = Pipeline([Step.from_callable(lambda x: x, name="inc")], name="nameless")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nameless", module)

    with pytest.raises(ConfigurationError, match=r"'nameless' has steps that cannot be queued: .*<lambda>"):
        Registry.from_modules("nameless")


def test_a_step_is_here_only_with_every_function_that_must_hold_after_it() -> None:
    registry = Registry()
    spec = registry.add(Pipeline([Step.from_callable(_twice)], name="p", static_invariants=[_small]))

    wanted = spec.steps()[0].wanted

    assert wanted.endswith(":_twice tests.unit.test_registry:_small")
    assert registry.has(wanted)
    assert registry.find(wanted) is not None
    assert not registry.has(f"{wanted} a.newer.release:rule")
    assert [function for _, function in needs_of(spec)] == wanted.split(" ")


async def test_a_worker_that_lacks_an_invariant_gives_the_step_back_without_an_attempt() -> None:
    pipeline = Pipeline([Step.from_callable(_twice)], name="p", static_invariants=[_small])
    registry, spec = Registry(), pipeline.to_spec()
    registry.add(Pipeline([Step.from_callable(_twice)], name="older"))
    engine = EmbeddedEngine(registry)
    await engine.open()
    await engine.state.specs.keep(spec, "r1")
    await submit_run(engine.scripts, engine.codec, spec, 2, run_id="r", owner=POOL)
    engine.manager.wake("r")
    attempts = engine.keyspace.run("r").attempts
    async with asyncio.timeout(10):
        while await engine.redis.hget(attempts, "0|declined") is None:
            await asyncio.sleep(0)

    assert await engine.redis.hget(attempts, "0|state") == b"dispatched"
    assert (await engine.state.record("r"))["status"] == "running"
    await engine.close()


def _twice(number: int) -> int:
    return 2 * number


def _small(output: int) -> bool:
    return output < 10


class Agent:
    async def run(self, number: int) -> int:
        return number


def test_two_objects_that_would_share_a_name_are_refused() -> None:
    registry = Registry()
    registry.add(Pipeline([Step(name="ask", agent=Agent())], name="one"))

    with pytest.raises(ConfigurationError, match=r"Two different objects are known as '.*:Agent#ask'"):
        registry.add(Pipeline([Step(name="ask", agent=Agent())], name="two"))


def test_pipelines_may_have_refinements_and_gathers_of_one_name() -> None:
    registry = Registry()
    for name in ("one", "two"):
        refined = Step.refine_until("better", Step.from_callable(_twice), Step.from_callable(_twice, name="critic"))
        registry.add(Pipeline([refined, Step.gather("pick", wait_for=["a"])], name=name))

    with pytest.raises(ConfigurationError, match="Two different objects"):
        registry.add(Pipeline([Step.gather("pick", wait_for=["b"])], name="three"))
