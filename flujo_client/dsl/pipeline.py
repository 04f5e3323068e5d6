"""`Pipeline`: steps composed with `>>`.

Steps that hold pipelines (`parallel.py`, `loop.py`, `conditional.py`) build on it and on `Step`. `factories.py` makes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import ValidationError as PydanticValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from flujo_client.dsl.callables import ControlFunction, reference_of
from flujo_client.dsl.compatibility import compatible
from flujo_client.dsl.composites import composite
from flujo_client.dsl.factories import Nesting
from flujo_client.dsl.findings import ValidationFinding, ValidationReport
from flujo_client.dsl.step import Step
from flujo_client.protocol.errors import ConfigurationError, MissingAgentError, PipelineValidationError
from flujo_client.protocol.spec import (
    LATEST,
    BackgroundSpec,
    NodeSpec,
    PipelineSpec,
    SequenceSpec,
    StepSpec,
)
from flujo_client.protocol.spec_text import refuse_unsendable
from flujo_client.protocol.types import ControlDefinition, StepDefinition, TypeValidator, describe_type, make_adapter

__all__ = ["UNNAMED", "Pipeline", "Step", "fits", "handed_on"]

#: What turns a setting off, as `Settings` reads it.
_OFF = ("0", "false", "no", "off")

#: What to do about types that do not fit.
_TYPE_REMEDY = "Insert an adapter step or adjust types."

#: The name of a pipeline that has none; it runs in process only.
UNNAMED = "unnamed"


@composite("sequence")
class Pipeline(Nesting):
    """Steps one after the other; each gets the output of the one before.

    Args:
        steps: At least one by the time it runs.
        name: By which services submit it; needed to queue it.
        version: Of the pipeline; services may ask for one.
        hooks: Called for runs of this pipeline by `Flujo`.
        on_finish: Hooks called after a run only.
        static_invariants: What must hold after each of its steps; see `Step.static_invariants`.

    Raises:
        PipelineValidationError: Neighbours declare types that cannot fit; lists all of them. It is a ValueError as well.
    """

    def __init__(
        self,
        steps: Sequence[Step[Any, Any] | Pipeline] = (),
        *,
        name: str | None = None,
        version: str = LATEST,
        hooks: Sequence[Callable[..., Any]] = (),
        on_finish: Sequence[Callable[..., Any]] = (),
        static_invariants: Sequence[Any] = (),
    ) -> None:
        self.name = name
        self.version = version
        self.steps: list[Step[Any, Any]] = []
        self.hooks = list(hooks)
        self.on_finish = list(on_finish)
        self.static_invariants = list(static_invariants)
        for part in steps:
            if isinstance(part, Pipeline):
                self.steps += part.steps
                self.hooks += part.hooks
                self.on_finish += part.on_finish
                self.static_invariants += part.static_invariants
            elif isinstance(part, Step):
                self.steps.append(part)
            else:
                raise TypeError(f"A pipeline is made of steps and pipelines, not of {type(part).__name__}.")
        _check_neighbours(self.steps)

    @classmethod
    def from_step(cls, step: Step[Any, Any]) -> Pipeline:
        """A pipeline of one step."""
        return cls([step])

    def named(self, name: str, *, version: str | None = None) -> Pipeline:
        """The same pipeline under a name, and another version if one is given."""
        return Pipeline(
            self.steps,
            name=name,
            version=version or self.version,
            hooks=self.hooks,
            on_finish=self.on_finish,
            static_invariants=self.static_invariants,
        )

    def __rshift__(self, other: Step[Any, Any] | Pipeline) -> Pipeline:
        """`pipeline >> step`: the other gets this one's output."""
        if not isinstance(other, Step | Pipeline):
            raise TypeError(f"A pipeline goes on with a step or a pipeline, not with {type(other).__name__}.")
        return Pipeline([self, other], name=self.name, version=self.version)

    def __repr__(self) -> str:
        return f"Pipeline({self.name or UNNAMED!r}: {' >> '.join(step.name for step in self.steps)})"

    @property
    def input_type(self) -> Any:
        """What its first step takes."""
        return self.steps[0].input_type if self.steps else Any

    @property
    def output_type(self) -> Any:
        """What its last step returns."""
        return handed_on(self.steps[-1]) if self.steps else Any

    def iter_steps(self) -> Iterator[Step[Any, Any]]:
        """Its own steps, in order; not those inside branches."""
        return iter(self.steps)

    def all_steps(self) -> Iterator[Step[Any, Any]]:
        """Every step at any depth, in declared order; composites before their parts."""
        for part in self.steps:
            yield from part.fallbacks()
            for inner in part.parts().values():
                yield from inner.all_steps()

    def leaves(self) -> list[Step[Any, Any]]:
        """Every step that runs, at any depth, in declared order."""
        return [part for part in self.all_steps() if not part.is_complex]

    def step_definitions(self) -> Mapping[str, StepDefinition]:
        """Its steps by function reference, as a worker's registry takes them."""
        return {leaf.function: leaf for leaf in self.leaves()}

    def control_definitions(self) -> Mapping[str, ControlDefinition]:
        """The functions of its composites by reference, as a worker's registry takes them."""
        return {
            reference_of(function, place): ControlFunction.of(function)
            for place, functions in self.named_functions()
            for function in functions.values()
        }

    def named_functions(self) -> Iterator[tuple[str, Mapping[str, Callable[..., Any]]]]:
        """The functions that specs refer to beside those of steps, by what they are for, each with whose they are."""
        yield self.name or UNNAMED, self.rules()
        for part in self.all_steps():
            yield part.name, part.controls()
            yield part.name, {f"failure handler {number}": call for number, call in enumerate(part.failure_handlers, 1)}
            for inner in part.parts().values():
                yield part.name, inner.rules()

    def rules(self) -> Mapping[str, Callable[..., Any]]:
        """Its static invariants that are functions, each by what it is called."""
        rules = [rule for rule in self.static_invariants if not isinstance(rule, str)]
        return {f"static invariant {number}": rule for number, rule in enumerate(rules, 1)}

    def placed_steps(self, place: str) -> Iterator[tuple[str, Step[Any, Any]]]:
        """See `all_steps`: each with where it stands."""
        for part in self.steps:
            yield from ((f"{place}/{link.name}", link) for link in part.fallbacks())
            for name, inner in part.parts().items():
                yield from inner.placed_steps(f"{place}/{part.name}/{name}")

    def validate_graph(self) -> ValidationReport:
        """Check everything that can be known before it runs: types at any depth, agents, branches. Raises nothing."""
        return ValidationReport(findings=tuple(self._findings(self.name or UNNAMED)))

    def _findings(self, place: str) -> Iterator[ValidationFinding]:
        if not self.steps:
            yield ValidationFinding(
                rule="empty", place=place, message="Pipeline has no steps", suggestion="Give it at least one."
            )
        yield from (finding.inside(place) for finding in _misfits(self.steps))
        for part in self.steps:
            at = f"{place}/{part.name}"
            for link in part.fallbacks():
                yield from (finding.inside(f"{place}/{link.name}") for finding in _faults_of(link))
            for name, inner in part.parts().items():
                yield from inner._findings(f"{at}/{name}")

    def to_spec(self) -> PipelineSpec:
        """The pipeline as pure data.

        Raises:
            ConfigurationError: It has no steps, a name or version that cannot be one, or more than a message can carry.
        """
        root = self.to_sequence()
        last = root.nodes[-1]
        if isinstance(last, StepSpec) and self.steps[-1].stream_call is not None:
            root = SequenceSpec(nodes=(*root.nodes[:-1], last.model_copy(update={"streams": True})))
        try:
            spec = PipelineSpec(
                name=self.name or UNNAMED,
                pipeline_version=self.version,
                root=root,
                input_schema=_schema_of(self.input_type),
            )
        except PydanticValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise ConfigurationError(
                f"Pipeline '{self.name}' cannot be made: {fault['loc'][-1]}: {fault['msg']}."
            ) from error
        refuse_unsendable(spec)
        return spec

    def to_sequence(self) -> SequenceSpec:
        """Its steps as a spec's node. Raises `ConfigurationError` if it has none."""
        if not self.steps:
            raise ConfigurationError(f"Pipeline '{self.name or UNNAMED}' has no steps.")
        sequence = SequenceSpec(nodes=tuple(_placed(part) for part in self.steps))
        if not self.static_invariants:
            return sequence
        rules = tuple(rule for rule in self.static_invariants if isinstance(rule, str))
        functions = tuple(reference_of(rule, self.name or UNNAMED) for rule in self.rules().values())
        return sequence.with_steps(lambda leaf: leaf.with_invariants(rules, functions))


def handed_on(part: Step[Any, Any]) -> Any:
    """The annotation of what follows a step gets: what it returns, or, in the background, its own input."""
    return part.input_type if part.in_background else part.output_type


def _placed(part: Step[Any, Any]) -> NodeSpec:
    handlers = tuple(reference_of(handler, part.name) for handler in part.failure_handlers)
    node = part.to_node().model_copy(update={"failure_handlers": handlers})
    return BackgroundSpec(name=part.name, body=SequenceSpec(nodes=(node,))) if part.in_background else node


def fits(one: Step[Any, Any], other: Step[Any, Any]) -> bool:
    """Whether a step's output can be the next one's input.

    Adapters, and steps with an input of their own, fit everything; all do with FLUJO_STRICT_DSL=0, until the values come.
    """
    if os.environ.get("FLUJO_STRICT_DSL", "").lower() in _OFF:
        return True
    if one.is_adapter or other.is_adapter or other.template is not None:
        return True
    return compatible(handed_on(one), other.wanted_type)


def _check_neighbours(steps: Sequence[Step[Any, Any]]) -> None:
    faults = [str(finding) for finding in _misfits(steps) if finding.rule == "types"]
    if faults:
        raise PipelineValidationError("; ".join(faults) + ".", suggestion=_TYPE_REMEDY, faults=faults)


def _misfits(steps: Sequence[Step[Any, Any]]) -> Iterator[ValidationFinding]:
    """Neighbours whose types do not fit: as a whole, or where one of them takes its input in several places."""
    validator = TypeValidator()
    for one, other in pairwise(steps):
        output = handed_on(one) if one.in_background else validator.get_step_output_type(one)
        text = f"Type mismatch between steps '{one.name}' (returns {describe_type(output)}) and "
        if not fits(one, other):
            whole = f"{text}'{other.name}' (expects {describe_type(other.wanted_type)})"
            yield ValidationFinding(rule="types", message=whole, suggestion=_TYPE_REMEDY)
            continue
        for place, first in _first_steps(other, other.name):
            if not fits(one, first):
                deep = f"{text}'{first.name}' in {place} (expects {describe_type(first.input_type)})"
                yield ValidationFinding(rule="inner_types", message=deep, suggestion=_TYPE_REMEDY)


def _first_steps(step: Step[Any, Any], place: str) -> Iterator[tuple[str, Step[Any, Any]]]:
    """The steps inside one that get its input as it is, with their places."""
    for name, inner in step.entries().items():
        if inner.steps:
            yield f"{place}/{name}", inner.steps[0]
            yield from _first_steps(inner.steps[0], f"{place}/{name}/{inner.steps[0].name}")


def _faults_of(step: Step[Any, Any]) -> Iterator[ValidationFinding]:
    yield from step.findings()
    if step.is_complex:
        return
    try:
        _ = step.call
    except ConfigurationError as error:
        rule = "agent" if not isinstance(error, MissingAgentError) else "missing_agent"
        yield ValidationFinding(rule=rule, message=error.message, suggestion=error.suggestion)


def _schema_of(annotation: Any) -> dict[str, object]:
    adapter = make_adapter(annotation)
    try:
        return {} if adapter is None else adapter.json_schema()
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return {}
