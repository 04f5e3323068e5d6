"""Pipelines of one or two steps with everything that a step may have, for workers and for the in-process mode alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from flujo_client import (
    AgentProcessors,
    AppResources,
    FlujoAgentResult,
    FlujoAgentUsage,
    Pipeline,
    PipelineContext,
    PluginOutcome,
    Step,
    StepConfig,
    StepRun,
    ValidationResult,
    adapter_step,
    get_skill_registry,
    step,
)


async def take_anything(data):  # type: ignore[no-untyped-def]  # that is the point
    return [data]


class Place(BaseModel):
    x: int
    y: int


class Notes(PipelineContext):
    n: int = 0
    words: list[str] = Field(default_factory=list)
    facts: dict[str, Any] = Field(default_factory=dict)
    place: Place = Place(x=1, y=1)
    complaints: list[str] = Field(default_factory=list)
    findings: list[Any] = Field(default_factory=list)


class Pool(AppResources):
    entered: int = 0
    left: int = 0
    errors: list[str] = Field(default_factory=list)

    async def __aenter__(self) -> Pool:
        self.entered += 1
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self.left += 1
        if kind is not None:
            self.errors.append(kind.__name__)


flujo_resources = Pool()
flujo_context_model = Notes


# agents


class Greeter:
    """An agent as existing code writes them."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting

    async def run(self, data: str, **kwargs: Any) -> str:
        asked = [name for name in ("context", "resources", "temperature", "run") if name in kwargs]
        return f"{self.greeting} {data} {' '.join(asked)}"


class SyncGreeter:
    def run(self, data: str) -> str:
        return f"hi {data}"


class Temperate:
    async def run(self, data: Any, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0) -> list[float]:
        return [temperature, top_k, top_p]


get_skill_registry().register("test.greeter", Greeter)
module_greeter = Greeter("good day")

agents = Pipeline(
    [
        Step(name="object", agent=Greeter()),
        Step(name="sync", agent=SyncGreeter()),
        Step(name="named", agent="tests.integration.one_step:module_greeter"),
        Step(name="skill", agent={"id": "test.greeter", "params": {"greeting": "ahoy"}}),
    ],
    name="agents",
)
settings = Pipeline(
    [Step(name="temperate", agent=Temperate(), config=StepConfig(temperature=0.5, top_k=3))], name="settings"
)


@step(max_retries=1)
async def use_pool(data: Any, run: StepRun, *, resources: Pool) -> list[Any]:
    if run.attempt == 1:
        raise ValueError("not yet")
    return [resources.entered - resources.left, resources.errors[-1]]


pooled = Pipeline([use_pool], name="pooled")


# usage


@step
async def priced(data: Any) -> FlujoAgentResult:
    return FlujoAgentResult("priced", FlujoAgentUsage(1000, 500), model="openai:gpt-4o")


@step
async def declared(data: Any) -> FlujoAgentResult:
    return FlujoAgentResult({"x": 1}, cost_usd=0.25, token_counts=7)


class Costly(BaseModel):
    text: str
    cost_usd: float
    token_counts: int


@step
async def costly(data: Any) -> Costly:
    return Costly(text="c", cost_usd=0.5, token_counts=3)


@step
async def plain(data: Any) -> str:
    return "one token"


usage = Pipeline([priced, declared, costly, plain], name="usage")


# what is attached


class Trim:
    name = "trim"

    async def process(self, data: Any, context: Any) -> Any:
        return data.strip()


def exclaim(data: str) -> str:
    return data + "!"


class LongEnough:
    name = "long enough"

    async def validate(self, output: Any, *, context: Any = None) -> ValidationResult:
        valid = len(output) > 3
        return ValidationResult(is_valid=valid, feedback=None if valid else f"{output} is short")


async def echo(data: str) -> str:
    return data


async def shout(data: str) -> str:
    return data.upper()


processed = Pipeline(
    [
        Step.from_callable(
            echo,
            name="processed",
            processors=AgentProcessors(prompt_processors=[Trim()], output_processors=[exclaim, shout]),
        )
    ],
    name="processed",
)
validated = Pipeline(
    [
        Step(
            name="validated",
            agent=echo,
            validators=[LongEnough()],
            persist_validation_results_to="findings",
            persist_feedback_to_context="complaints",
        )
    ],
    name="validated",
)
strict = Pipeline([Step.validate_step(echo, validators=[LongEnough()])], name="strict")


class NoSwearing:
    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        if "damn" in data["output"]:
            return PluginOutcome(success=False, feedback="mind your words")
        return PluginOutcome(success=True)


class Shorten:
    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        return PluginOutcome(success=True, new_solution=data["output"][:5])


async def polite(data: str) -> str:
    return data.replace("damn", "dear")


class AskPolite:
    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        if "damn" in data["output"]:
            return PluginOutcome(success=False, redirect_to=polite)
        return PluginOutcome(success=True)


class AskAgain:
    async def validate(self, data: dict[str, Any]) -> PluginOutcome:
        return PluginOutcome(success=False, redirect_to=echo)


guarded = Pipeline([Step(name="guarded", agent=echo, plugins=[NoSwearing()])], name="guarded")
corrected = Pipeline([Step(name="corrected", agent=echo, plugins=[(Shorten(), 1), (AskPolite(), 9)])], name="corrected")
circular = Pipeline([Step(name="circular", agent=echo, plugins=[AskAgain()])], name="circular")
backed_up = Pipeline(
    [Step(name="backed_up", agent=echo, plugins=[NoSwearing()]).fallback(Step(name="plan_b", agent=polite))],
    name="backed_up",
)


# context


@step(max_retries=2, persist_feedback_to_context="complaints")
async def third_time(data: Any, *, context: Notes) -> int:
    context.n += 1  # of an attempt that fails, nothing of this is left
    if len(context.complaints) < 2:
        raise ValueError(f"attempt {len(context.complaints) + 1}")
    return context.n


@step
async def read_complaints(data: Any, *, context: Notes) -> list[str]:
    return [*context.complaints, str(context.n)]


complaining = Pipeline([third_time, read_complaints], name="complaining")


@step(updates_context=True)
async def facts(data: Any) -> dict[str, Any]:
    return {"facts": {"a": {"x": 1}}, "n": 4}


@step(updates_context=True)
async def more_facts(data: Any) -> dict[str, Any]:
    return {"facts": {"a": {"y": 2}}}


class Status(BaseModel):
    status: str
    place: dict[str, int]


@step(updates_context=True)
async def own_status(data: Any) -> Status:
    return Status(status="checked", place={"y": 2})


@step(sink_to="facts.sunk")
async def sunk(data: Any) -> int:
    return 7


updating = Pipeline([facts, more_facts, own_status, sunk], name="updating")


@step(updates_context=True)
async def wrong_type(data: Any) -> dict[str, Any]:
    return {"n": "notint"}


@step(updates_context=True)
async def no_dict(data: Any) -> int:
    return 5


wrong = Pipeline([wrong_type], name="wrong")
not_a_dict = Pipeline([no_dict], name="not_a_dict")


@step
async def first(data: str) -> str:
    return f"first {data}"


@step
async def second(data: str) -> dict[str, int]:
    return {"count": len(data)}


@step
async def collect(data: str, *, context: Notes) -> list[Any]:
    return [data, context.step_outputs]


async def take_number(number: int) -> int:
    return number + 1


templated = Pipeline(
    [
        first,
        second,
        Step(
            name="text",
            agent=echo,
            input="{{ steps.first }} and {{ previous_step.count }} {{ context.initial_prompt }}",
        ),
        Step(name="number", agent=take_number, input="{{ steps.second.output.count }}"),
    ],
    name="templated",
)
unresolved = Pipeline([Step(name="unresolved", agent=echo, input="{{ steps.nobody }}")], name="unresolved")
collecting = Pipeline([first, second, Step(name="shown", agent=echo, input="x"), collect], name="collecting")
selecting = Pipeline([second.use_input("text")], name="selecting")


# invariants


@step(updates_context=True)
async def grow(data: int) -> dict[str, int]:
    return {"n": data}


def small(context: Notes) -> bool:
    return context.n < 100


def even(output: dict[str, int]) -> bool:
    return output["n"] % 2 == 0


bounded = Pipeline(
    [Step(name="bounded", agent=grow.agent, updates_context=True, static_invariants=["context.n > 2", even])],
    name="bounded",
    static_invariants=["output.n != 6", small],
)


# types


class Animal(BaseModel):
    name: str


class Dog(Animal):
    tricks: int = 0


@dataclass
class Point:
    x: int
    y: int | None = None


class Row(TypedDict):
    a: int


@step
async def make_dog(data: Any) -> Dog:
    return Dog(name=str(data), tricks=2)


@step
async def name_of(animal: Animal) -> list[Any]:
    return [animal.name, getattr(animal, "tricks", None)]


@step
async def make_none(data: Any) -> str | None:
    return None


@step
async def take_none(data: str | None) -> Point:
    return Point(1) if data is None else Point(2)


@step
async def take_point(point: Point | int) -> dict[str, list[Row]]:
    assert isinstance(point, Point)
    return {"rows": [{"a": point.x}]}


@step
async def take_rows(rows: dict[str, list[Row]]) -> bool:
    return rows["rows"][0]["a"] == 1


@step
async def take_int(number: int) -> list[Any]:
    return [number, isinstance(number, bool)]


@step
async def any_none(data: Any) -> Any:
    return None


@step
async def take_str(data: str) -> str:
    return data


dogs = Pipeline([make_dog, name_of], name="dogs")
typed = Pipeline([make_none, take_none, take_point, take_rows, take_int], name="typed")
bare_none = Pipeline([any_none, Step.from_callable(take_anything, name="anything")], name="bare_none")
none_mismatch = Pipeline([any_none, take_str], name="none_mismatch")


# adapters


@adapter_step(adapter_id="text", adapter_allow="counts")
async def as_text(count: dict[str, int]) -> str:
    return str(count["count"])


adapted = Pipeline([first, second, as_text, Step(name="last", agent=shout)], name="adapted")


# failure handlers

handler_calls: list[str] = []


@step(max_retries=0)
async def refuse_order(data: str) -> str:
    raise ValueError("sold out")


@step
async def calls_so_far(data: dict[str, Any]) -> list[str]:
    calls = list(handler_calls)
    handler_calls.clear()
    return calls


def page_first() -> None:
    handler_calls.append("first")


async def page_second() -> None:
    handler_calls.append("second")


def page_nobody() -> None:
    raise RuntimeError("no pager")


paged = Pipeline(
    [
        Step.parallel(
            "orders",
            {
                "bad": refuse_order.model_copy(update={"failure_handlers": [page_first, page_second]}),
                "good": Step(name="good_order", agent=shout),
            },
            on_branch_failure="ignore",
        ),
        calls_so_far,
    ],
    name="paged",
)
unpaged = Pipeline([refuse_order.model_copy(update={"failure_handlers": [page_nobody]})], name="unpaged")


# declared keys


@step(sink_to="facts.title", output_keys=["facts.title"])
async def entitle(data: str) -> str:
    return data.title()


@step(input_keys=["facts.title"], output_keys=["facts.body"], max_retries=0)
async def forgets(data: str) -> str:
    return data


keyed = Pipeline([entitle, forgets], name="keyed")
