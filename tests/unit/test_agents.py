"""Agents of steps: what they ask for, and how they are found by name."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_client import (
    AppResources,
    ConfigurationError,
    Flujo,
    FlujoAgentResult,
    InfiniteFallbackError,
    Pipeline,
    SkillRegistry,
    Step,
    StepConfig,
    StepRun,
    adapter_step,
    get_skill_registry,
    step,
)
from flujo_client.dsl.skills import resolve_agent


class Notes(BaseModel):
    n: int = 0


class Pool(AppResources):
    pass


async def typed(data: int, *, context: Notes | None = None, resources: Pool) -> str:
    return "x"


async def open_ended(*args: Any, **kwargs: Any) -> Any:
    return args


async def with_result(data: str, run: StepRun, temperature: float) -> FlujoAgentResult:
    return FlujoAgentResult(data)


@pytest.mark.parametrize(
    ("agent", "injects", "types"),
    [
        (typed, {"context", "resources"}, (int, str)),
        (open_ended, {"context", "resources", "temperature", "top_k", "top_p"}, (Any, Any)),
        (with_result, {"run", "temperature"}, (str, Any)),
    ],
)
def test_a_signature_says_what_is_injected_and_what_flows(
    agent: Any, injects: set[str], types: tuple[Any, Any]
) -> None:
    made: Step[Any, Any] = Step(name="s", agent=agent)

    assert made.injects == injects
    assert (made.__step_input_type__, made.__step_output_type__) == types
    assert Step.__step_input_type__ is object


async def careless(data: Any, *, context: dict[str, Any], resources: str = "") -> Any:
    return data


@pytest.mark.parametrize("annotation", [dict[str, Any], "missing", int])
def test_keyword_only_resources_must_be_app_resources(annotation: Any) -> None:
    async def agent(data: Any, *, resources: Any) -> Any:
        return data

    agent.__annotations__["resources"] = annotation
    made: Step[Any, Any] = Step(name="s", agent=agent)

    if annotation == "missing":  # it cannot be known what the user's own scope calls so
        assert "resources" in made.injects
    else:
        with pytest.raises(ConfigurationError, match="class of AppResources"):
            _ = made.signature


def test_what_a_function_of_a_step_declares_wrongly_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        made: Step[Any, Any] = Step.from_callable(careless)

    assert "asks for what it does not declare" in caplog.text
    assert "context" in made.injects


class Greeter:
    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    async def run(self, data: str) -> str:
        return f"{self.greeting} {data}"


GREETER = Greeter("hi")


@pytest.mark.parametrize(
    ("agent", "greeting"),
    [
        ("tests.unit.test_agents:GREETER", "hi"),
        ("tests.unit.test_agents:Greeter", "hello"),
        ({"path": "tests.unit.test_agents:Greeter", "params": {"greeting": "ahoy"}}, "ahoy"),
        ({"id": "unit.greeter"}, "hello"),
        ("unit.greeter", "hello"),
    ],
)
def test_agents_are_found_by_name(agent: Any, greeting: str) -> None:
    get_skill_registry().register("unit.greeter", Greeter)

    assert resolve_agent(agent, "s").greeting == greeting


@pytest.mark.parametrize(
    "agent", ["nobody", "no.such.module:x", "tests.unit.test_agents:nothing", {"params": {}}, {"id": 5}]
)
def test_an_agent_that_cannot_be_found_says_where_it_was_looked_for(agent: Any) -> None:
    made: Step[Any, Any] = Step(name="lost", agent=agent)

    with pytest.raises(ConfigurationError, match="step 'lost'"):
        _ = made.signature


def test_a_registry_gives_what_was_registered_last() -> None:
    registry = SkillRegistry()
    registry.register("a", 1)
    registry.register("a", 2)

    assert (registry.get("a"), registry.get("b")) == (2, None)


def test_a_named_agent_is_named_in_the_spec_and_needs_no_function_to_import() -> None:
    made: Step[Any, Any] = Step(name="s", agent="tests.unit.test_agents:GREETER")

    assert made.function == "tests.unit.test_agents:GREETER#s"


def test_a_step_with_attachments_is_another_function_for_workers() -> None:
    plain: Step[Any, Any] = Step.from_callable(typed)
    judged: Step[Any, Any] = Step.from_callable(typed, validators=[GREETER])

    assert (plain.function, judged.function) == ("tests.unit.test_agents:typed", "tests.unit.test_agents:typed#typed")


def test_terms_given_beside_a_config_win_with_a_warning() -> None:
    config = StepConfig(max_retries=5, timeout_s=3)

    with pytest.warns(UserWarning, match="max_retries given besides config"):
        made: Step[Any, Any] = Step.from_callable(typed, config=config, max_retries=2)
    quiet: Step[Any, Any] = Step.from_callable(typed, config=config, queue="gpu")

    assert (made.config.max_retries, made.config.timeout_s) == (2, 3)
    assert (quiet.config.max_retries, quiet.config.queue) == (5, "gpu")


def test_an_adapter_says_which_it_is_and_what_allows_it() -> None:
    made: Step[Any, Any] = adapter_step(adapter_id="a", adapter_allow="b")(typed)

    assert made.meta == {"is_adapter": True, "adapter_id": "a", "adapter_allow": "b"}
    with pytest.raises(ValueError, match="adapter_allow"):
        adapter_step(typed)
    with pytest.raises(ValueError, match="adapter_id"):
        Step.from_callable(typed, is_adapter=True)


def test_the_named_steps_have_fixed_names() -> None:
    steps = [Step.review(typed), Step.solution(typed, max_retries=3), Step.validate_step(typed, strict=False)]

    assert [made.name for made in steps] == ["review", "solution", "validate"]
    assert steps[1].config.max_retries == 3
    assert [made.to_leaf().strict for made in (*steps, Step.validate_step(typed))] == [False, False, False, True]


def test_plugins_without_a_fallback_leave_one_attempt() -> None:
    alone: Step[Any, Any] = Step.from_callable(typed, max_retries=4).add_plugin(GREETER)
    covered: Step[Any, Any] = Step.from_callable(typed, max_retries=4, plugins=[GREETER]).fallback(
        Step.from_callable(typed)
    )

    assert (alone.to_leaf().retry.retries, covered.to_leaf().retry.retries) == (0, 4)
    assert alone.plugins == [(GREETER, 0)]


def test_plugins_are_called_by_priority() -> None:
    made: Step[Any, Any] = Step(name="s", agent=typed, plugins=[("low", 1), ("high", 9), "none"])

    assert made.attachments.plugins == ("high", "low", "none")


def test_fallbacks_in_a_circle_are_found_before_anything_runs() -> None:
    one: Step[Any, Any] = Step.from_callable(typed, name="one")
    other: Step[Any, Any] = Step.from_callable(typed, name="other")
    one.fallback_step, other.fallback_step = other, one

    with pytest.raises(InfiniteFallbackError, match="Fallback loop detected for step 'one'"):
        Pipeline([one]).leaves()


def test_an_input_of_the_steps_own_is_noted_in_its_meta() -> None:
    made: Step[Any, Any] = Step(name="s", agent=typed, input="{{ context.n }}")

    assert made.meta == {"templated_input": "{{ context.n }}"}
    assert made.input_ == "{{ context.n }}"


async def text(data: Any) -> str:
    return str(data)


def test_templated_inputs_adapters_and_a_setting_let_types_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Type mismatch between steps 'text'"):
        Step.from_callable(text) >> Step.from_callable(typed)

    assert Step.from_callable(text) >> Step.from_callable(typed, input="{{ 1 }}")
    assert Step.from_callable(text) >> Step.from_callable(typed, is_adapter=True, adapter_id="a", adapter_allow="b")
    monkeypatch.setenv("FLUJO_STRICT_DSL", "0")
    assert Step.from_callable(text) >> Step.from_callable(typed)


async def test_an_agent_that_is_set_later_is_the_one_that_runs() -> None:
    made = step(text)
    assert made.output_type is str

    made.agent = Greeter("late")

    assert (await Flujo(made).run_async("x")).output == "late x"


async def test_every_definition_of_a_named_step_is_the_same_to_a_registry() -> None:
    pipelines = [Pipeline([step(text).use_input("k")], name=name) for name in ("a", "b")]

    from flujo_worker import Registry

    registry = Registry()
    for pipeline in pipelines:
        registry.add(pipeline)

    assert len(registry.functions()) == 2
