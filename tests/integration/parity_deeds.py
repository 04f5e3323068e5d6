"""What steps and pipelines are made of, told by the process that runs steps: sentences of docs/parity.md, sections 1.2 and 1.3."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from typing import Any

from flujo_client import (
    AgentProcessors,
    AppResources,
    ConditionalStep,
    DynamicParallelRouterStep,
    Flujo,
    GranularStep,
    LoopStep,
    Pipeline,
    PipelineContext,
    PluginOutcome,
    Step,
    StepConfig,
    ValidationResult,
    adapter_step,
    get_skill_registry,
    mapper,
    step,
)
from tests.integration.deeds import deed, telling
from tests.integration.parity_pipelines import always, inc, which


@step
async def shout(number: int) -> str:
    return "!" * number


@step
async def half(number: int) -> int:
    return number // 2


async def double(number: int) -> int:
    return 2 * number


def triple(number: int) -> int:
    return 3 * number


class Tripler:
    """An agent whose model has a price, by a rule of thumb."""

    model_id = "openai:gpt-4o"

    async def run(self, number: int) -> int:
        return 3 * number


async def quiet(payload: Any) -> None:
    """A hook."""


def _kinds(steps: Iterable[Step[Any, Any]]) -> list[str]:
    return [f"{type(part).__name__} {part.name}" for part in steps]


def _defaults(kind: Any, *names: str) -> dict[str, Any]:
    return {name: kind.model_fields[name].get_default(call_default_factory=True) for name in names}


@deed
def fields_of_a_step() -> dict[str, Any]:
    made: Step[Any, Any] = Step(name="plain", agent=double)
    left_out = {"name", "agent", "config", "processors"}
    return {name: getattr(made, name) for name in Step.model_fields if name not in left_out}


@deed
def a_fallback_is_not_serialised() -> list[bool]:
    made: Step[Any, Any] = Step(name="plain", agent=double).fallback(half)
    dumped = made.model_dump()
    return ["fallback_step" in dumped, "name" in dumped]


@deed
def terms_of_a_step() -> dict[str, Any]:
    terms = ("max_retries", "timeout_s", "temperature", "top_k", "top_p", "preserve_fallback_diagnostics")
    return _defaults(StepConfig, *terms, "execution_mode", "expected_cost_usd", "expected_tokens")


@deed
def an_input_of_its_own() -> list[Any]:
    made: Step[Any, Any] = Step(name="own", agent=double, input="{{ context.call_count }}")
    return [made.input_, made.meta["templated_input"]]


@deed
def declared_types() -> list[str]:
    plain: Step[Any, Any] = Step(name="plain", agent=lambda data: data)
    kinds = (Step.__step_input_type__, Step.__step_output_type__, shout.__step_input_type__, shout.__step_output_type__)
    return [kind.__name__ for kind in kinds] + [str(plain.is_complex)]


@deed
def which_are_complex() -> list[bool]:
    around = [
        Step.parallel("all", {"a": inc}),
        Step.loop_until("again", inc, always),
        Step.branch_on("pick", always, {True: inc}),
        Step.map_over("each", inc),
        Step.cached(inc),
        Pipeline([inc]).as_step("inner"),
    ]
    return [inc.is_complex, Step.human_in_the_loop("ask").is_complex, *(part.is_complex for part in around)]


@deed
def run_has_no_step() -> str:
    return str(inc.run)  # type: ignore[attr-defined]  # that is the point


@deed
def stream_has_no_step() -> str:
    return str(inc.stream)  # type: ignore[attr-defined]  # that is the point


@deed
def joined() -> list[list[str]]:
    return [_kinds((inc >> half).steps), _kinds((inc >> Pipeline([half, shout])).steps)]


@deed
def said_one_after_the_other() -> list[Any]:
    made: Step[Any, Any] = Step(name="said", agent=double)
    same = made.fallback(half).add_plugin(quiet)
    return [same is made, same.fallback_step.name, [priority for _, priority in same.plugins]]


@deed
def selected() -> list[str]:
    return _kinds(half.use_input("count").steps)


@deed
def made_of_a_function() -> list[Any]:
    made: Step[Any, Any] = Step.from_callable(double, updates_context=False, sink_to="place", max_retries=3)
    named: Step[Any, Any] = Step.from_callable(double, name="twice")
    types = [made.input_type.__name__, made.output_type.__name__]
    return [made.name, named.name, *types, made.sink_to, made.config.max_retries]


@deed
def made_of_a_mapper() -> list[str]:
    return _kinds([Step.from_mapper(double), mapper(triple)])


@deed
def decorated() -> list[Any]:
    made = step(name="twice", timeout_s=2.5, max_retries=0, execution_mode="background")(double)
    return [made.name, made.config.timeout_s, made.config.max_retries, made.config.execution_mode]


@deed
def adapters() -> dict[str, Any]:
    return adapter_step(adapter_id="text", adapter_allow="counts")(double).meta


@deed
def an_adapter_without_its_id() -> Any:
    return adapter_step(adapter_id="", adapter_allow="counts")(double)


@deed
def an_adapter_without_its_token() -> Any:
    return adapter_step(adapter_id="text", adapter_allow="")(double)


@deed
def fixed_names() -> list[Any]:
    named = [Step.review(double), Step.solution(double, max_retries=4), Step.validate_step(double)]
    return [
        *_kinds(named),
        named[1].config.max_retries,
        named[2].meta["strict_validation"],
        Step.validate_step(double, strict=False).meta["strict_validation"],
    ]


@deed
def a_question() -> list[Any]:
    made = Step.human_in_the_loop("ask", "sure?", int, sink_to="answer")
    return [type(made).__name__, made.message_for_user, made.input_schema.__name__, made.sink_to]  # type: ignore[attr-defined]  # fields of its class


@deed
def a_loop() -> list[Any]:
    made = Step.loop_until("again", inc, always)
    aliased = LoopStep.model_validate(
        {"name": "again", "loop_body_pipeline": inc, "exit_condition_callable": always, "max_retries": 3}
    )
    return [type(made).__name__, made.max_loops, aliased.max_loops]  # type: ignore[attr-defined]  # a field of its class


@deed
def a_refinement() -> list[Any]:
    made = Step.refine_until("refine", inc, half)
    (loop,) = (part for part in made.steps if isinstance(part, LoopStep))
    return [loop.max_loops, loop.name, _kinds(loop.loop_body_pipeline.steps), made.steps[-1].name]


@deed
def a_choice() -> list[Any]:
    made = Step.branch_on("pick", which, {"big": inc}, default_branch_pipeline=half)
    assert isinstance(made, ConditionalStep)
    assert made.default_branch_pipeline is not None
    return [type(made).__name__, type(made.branches["big"]).__name__, _kinds(made.default_branch_pipeline.steps)]


@deed
def a_parallel_step() -> dict[str, Any]:
    made = Step.parallel("both", {"a": inc, "b": inc >> half})
    told = {name: getattr(made, name) for name in type(made).model_fields if name not in Step.model_fields}
    return told | {"branches": {name: type(branch).__name__ for name, branch in made.parts().items()}}


@deed
def a_router() -> list[Any]:
    made = Step.dynamic_parallel_branch("route", which, {"big": inc, "small": half})
    plain = DynamicParallelRouterStep.model_validate({"name": "route", "router_agent": which, "branches": {"a": inc}})
    assert isinstance(made, DynamicParallelRouterStep)
    return [type(made).__name__, made.merge_strategy, plain.merge_strategy, made.router.name]


@deed
def a_map() -> list[Any]:
    made = Step.map_over("each", inc, iterable_input="items")
    return [type(made).__name__, made.iterable_input]  # type: ignore[attr-defined]  # a field of its class


@deed
def a_granular_step() -> dict[str, Any]:
    (loop,) = Step.granular("work", double).steps
    assert isinstance(loop, LoopStep)
    (turn,) = loop.loop_body_pipeline.steps
    assert isinstance(turn, GranularStep)
    own = {name: getattr(turn, name) for name in GranularStep.model_fields if name not in Step.model_fields}
    return {"names": _kinds([loop, turn]), "max_turns": loop.max_loops, **own}


@deed
def kept() -> list[Any]:
    made = Step.cached(half)
    return [type(made).__name__, made.name, made.cache_backend]  # type: ignore[attr-defined]  # a field of its class


@deed
def what_attachments_have() -> list[Any]:
    good, bad = ValidationResult(is_valid=True), ValidationResult(is_valid=False, feedback="no")
    outcome = PluginOutcome(success=True)
    return [AgentProcessors().model_dump(), good.model_dump(), bad.score, outcome.model_dump()]


@deed
def what_is_injected() -> list[list[str]]:
    async def plain(data: Any) -> None: ...
    async def asks(data: Any, *, context: PipelineContext, resources: AppResources) -> None: ...
    async def takes_all(data: Any, **injected: Any) -> None: ...
    async def tuned(data: Any, *, temperature: float, top_k: int) -> None: ...

    made: list[Step[Any, Any]] = [Step.from_callable(function) for function in (plain, asks, takes_all, tuned)]
    return [sorted(part.injects) for part in made]


@deed
def asks_for_odd_resources() -> Any:
    class Odd:
        async def run(self, data: Any, *, resources: dict[str, Any]) -> Any:
            return data

    return Step(name="odd", agent=Odd()).signature


@deed
def asks_for_an_odd_context() -> Any:
    class Odd:
        async def run(self, data: Any, *, context: dict[str, Any]) -> Any:
            return data

    return Step(name="odd", agent=Odd()).signature


@deed
def a_function_that_asks_oddly_is_made_a_step() -> str:
    async def odd(data: Any, *, context: dict[str, Any]) -> Any:
        return data

    return Step.from_callable(odd).name


@deed
def found_by_name() -> list[Any]:
    get_skill_registry().register("parity.tripler", Tripler)
    named: list[Step[Any, Any]] = [
        Step(name="path", agent=f"{__name__}:double"),
        Step(name="skill", agent="parity.tripler"),
        Step(name="with_parameters", agent={"id": "parity.tripler", "params": {}}),
    ]
    return [getattr(part.resolved_agent, "__name__", type(part.resolved_agent).__name__) for part in named]


# ---- pipelines


@deed
def fields_of_a_pipeline() -> list[Any]:
    made = Pipeline([])
    alone = Pipeline.from_step(inc)
    return [made.steps, made.hooks, made.on_finish, made.static_invariants, _kinds(alone.steps)]


@deed
def joined_with_everything() -> list[Any]:
    one = Pipeline([inc], hooks=[quiet], static_invariants=["output > 0"])
    other = Pipeline([half], on_finish=[quiet], static_invariants=["output > 1"])
    both = one >> other >> shout
    return [_kinds(both.steps), len(both.hooks), len(both.on_finish), both.static_invariants]


@deed
def types_of_its_ends() -> list[str]:
    made = half >> shout
    return [made.input_type.__name__, made.output_type.__name__]


@deed
def joined_with_an_adapter() -> list[str]:
    return _kinds((shout >> adapter_step(adapter_id="text", adapter_allow="counts")(double) >> half).steps)


@deed
def joined_with_a_template() -> list[str]:
    own: Step[Any, Any] = Step(name="own", agent=half.agent, input="{{ context.call_count }}")
    return _kinds((shout >> own).steps)


@deed
def joined_where_nothing_is_declared() -> list[str]:
    async def anything(data):  # type: ignore[no-untyped-def]  # that is the point
        return data

    async def whatever(data: Any) -> object:
        return data

    return _kinds((shout >> Step.from_callable(anything) >> half >> Step.from_callable(whatever) >> half).steps)


@deed
def joined_with_the_setting_off() -> list[str]:
    before = os.environ.get("FLUJO_STRICT_DSL")
    os.environ["FLUJO_STRICT_DSL"] = "0"
    try:
        return _kinds((shout >> half).steps)
    finally:
        os.environ.pop("FLUJO_STRICT_DSL")
        if before is not None:
            os.environ["FLUJO_STRICT_DSL"] = before


@deed
def its_own_steps() -> list[str]:
    made = Pipeline([inc, Step.parallel("both", {"a": half})])
    return [part.name for part in made.iter_steps()]


@deed
def as_a_step() -> list[Any]:
    made, apart = Pipeline([inc]).as_step("inner"), Pipeline([inc]).as_step("inner", inherit_context=False)
    of_a_runner = Flujo(Pipeline([inc])).as_step("inner")
    inherits = [part.inherit_context for part in (made, apart, of_a_runner)]  # type: ignore[attr-defined]  # of its class
    return [made.name, *inherits, of_a_runner.output_type.__name__]


@deed
def options_of_a_runner() -> dict[str, Any]:
    told = ("delete_on_completion", "persist_state", "pipeline_version", "enable_tracing", "usage_limits", "hooks")
    parameters = inspect.signature(Flujo).parameters
    return {name: parameters[name].default for name in (*told, "executor_factory", "backend_factory", "state_backend")}


@deed
def a_runner_with_a_factory() -> Any:
    return Flujo(inc, executor_factory=object())  # type: ignore[arg-type]  # that is the point


@deed
def estimates_of_steps_that_call_no_model() -> list[bool]:
    plain: Step[Any, Any] = Step(name="plain", agent=Tripler())
    marks = {"is_adapter": True, "adapter_id": "text", "adapter_allow": "counts"}
    adapter: Step[Any, Any] = Step(name="adapter", agent=Tripler(), meta=marks)
    return [bool(part.to_leaf().estimate) for part in (plain, Step.validate_step(Tripler()), adapter)]


about_steps = telling.named("about_steps")
