"""`StateMachineStep`: pipelines that follow one another as transitions say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from flujo_client.dsl.callables import reference_of
from flujo_client.dsl.composite import Composite, as_pipeline
from flujo_client.dsl.findings import ValidationFinding, warn
from flujo_client.dsl.pipeline import Pipeline
from flujo_client.protocol.spec import MachineSpec, TransitionSpec

__all__ = ["StateMachineStep", "Transition"]


class Transition(BaseModel):
    """Where to go from a state; also given as a dict with the key `from`.

    Attributes:
        source: Name of a state, or `*` for any.
        on: Whether the state succeeded, failed, or paused: the last is taken once a step of the state was answered, in the
            place of what follows it in the state, and the next state gets the answer.
        to: Name of the state that follows.
        when: (output, context) -> whether the transition applies. On a failure it gets the failed state's input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)

    source: str = Field(alias="from")
    on: Literal["success", "failure", "pause"] = "success"
    to: str
    when: Callable[..., Any] | None = None


class StateMachineStep(Composite):
    """States, entered one after the other. Its output is that of the last state.

    After each state that is no end, the first transition that applies says which state follows; else `next_state` of the
    output (a dict's key, or a field), then `next_state` of the context. With none of them the step ends with that state.

    Attributes:
        states: Steps or pipelines by name. A state gets the output of the state before, or, after one that failed, what
            that one got.
        start_state: Entered first.
        end_states: After these the step is done; one that has no pipeline is done as soon as it is reached, and the output is what
            it would have got.
        transitions: In order of precedence.
        max_hops: States that may be entered; to enter one more fails the step. Default: ten for each state.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    states: dict[str, Pipeline] = Field(min_length=1)
    start_state: str
    end_states: list[str] = Field(default_factory=list)
    transitions: list[Transition] = Field(default_factory=list)
    max_hops: int | None = Field(None, ge=1)

    @field_validator("states", mode="before")
    @classmethod
    def _as_pipelines(cls, states: Mapping[str, Any]) -> dict[str, Pipeline]:
        return {name: as_pipeline(part) for name, part in states.items()}

    @model_validator(mode="after")
    def _every_state_exists(self) -> Self:
        entered = {self.start_state, *(edge.source for edge in self.transitions if edge.source != "*")}
        reached = {edge.to for edge in self.transitions} - set(self.end_states)
        unknown = sorted((entered | reached) - self.states.keys())
        if unknown:
            raise ValueError(f"State machine '{self.name}' names states that it does not have: {', '.join(unknown)}.")
        return self

    @property
    def input_type(self) -> Any:
        """What the first state takes."""
        return self.states[self.start_state].input_type

    def parts(self) -> Mapping[str, Pipeline]:
        """See `Step.parts`: the states."""
        return self.states

    def entries(self) -> Mapping[str, Pipeline]:
        """See `Step.entries`: the first state."""
        return {self.start_state: self.states[self.start_state]}

    def findings(self) -> Iterator[ValidationFinding]:
        """See `Step.findings`: states that no transition leads to."""
        reached = {self.start_state, *(edge.to for edge in self.transitions)}
        for state in self.states if self.transitions else ():
            if state not in reached:
                text = f"no transition leads to state '{state}': only a step that names it as next_state does"
                yield warn("unreachable_branch", text, "Add the transition, or remove the state.")

    def controls(self) -> Mapping[str, Callable[..., Any]]:
        """See `Step.controls`: the conditions of the transitions."""
        places = enumerate(self.transitions)
        return {f"when{place}": transition.when for place, transition in places if transition.when is not None}

    def to_node(self) -> MachineSpec:
        """The step as a spec's node."""
        return MachineSpec(
            name=self.name,
            names=tuple(self.states),
            states=tuple(state.to_sequence() for state in self.states.values()),
            start=self.start_state,
            ends=tuple(self.end_states),
            transitions=tuple(
                TransitionSpec(
                    source=edge.source,
                    on=edge.on,
                    target=edge.to,
                    when=None if edge.when is None else reference_of(edge.when, self.name),
                )
                for edge in self.transitions
            ),
            most_hops=self.max_hops or 10 * len(self.states),
        )
