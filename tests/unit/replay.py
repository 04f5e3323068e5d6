"""Runs that exist only as nodes: events go through `advance()`, and decisions are applied as manager and Redis would."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from flujo_client.execution.advance import advance
from flujo_client.execution.decision import Decision, NodeState, RunView
from flujo_client.protocol.messages import Event, EventKind, TaskRecord
from flujo_client.protocol.payloads import json_bytes
from flujo_client.protocol.results import RunStatus
from flujo_client.protocol.spec import (
    BackgroundSpec,
    ConditionalSpec,
    HitlSpec,
    LoopSpec,
    MachineSpec,
    MapSpec,
    ParallelSpec,
    PipelineSpec,
    RouterSpec,
    SequenceSpec,
    StepSpec,
    SubPipelineSpec,
)


def step(name: str, **terms: Any) -> StepSpec:
    return StepSpec(name=name, function=f"m:{name}", **terms)


def hitl(name: str, **terms: Any) -> HitlSpec:
    return HitlSpec(name=name, **terms)


def sequence(*nodes: Any) -> SequenceSpec:
    return SequenceSpec(nodes=nodes)


def parallel(*branches: Any, **terms: Any) -> ParallelSpec:
    names = tuple(f"b{index}" for index in range(len(branches)))
    wrapped = tuple(branch if isinstance(branch, SequenceSpec) else sequence(branch) for branch in branches)
    return ParallelSpec(name="par", names=names, branches=wrapped, **terms)


def loop(*body: Any, **terms: Any) -> LoopSpec:
    return LoopSpec(name="loop", body=sequence(*body), **{"max_loops": 3, "exit_condition": "m:done", **terms})


def conditional(keys: tuple[Any, ...], *branches: Any, **terms: Any) -> ConditionalSpec:
    wrapped = tuple(sequence(branch) for branch in branches)
    return ConditionalSpec(name="cond", keys=keys, branches=wrapped, condition="m:which", **terms)


def machine(*names: str, ends: tuple[str, ...] = (), **terms: Any) -> MachineSpec:
    states = tuple(sequence(step(name)) for name in names)
    return MachineSpec(
        name="machine", names=names, states=states, start=names[0], ends=ends, **{"most_hops": 3, **terms}
    )


def map_over(*body: Any, **terms: Any) -> MapSpec:
    return MapSpec(name="map", body=sequence(*body), **{"max_concurrency": 2, **terms})


def router(*names: str) -> RouterSpec:
    branches = tuple(sequence(step(name)) for name in names)
    inner = ParallelSpec(name="dyn", names=names, branches=branches)
    return RouterSpec(name="dyn", router=sequence(step("dyn_router")), parallel=inner)


def background(*body: Any) -> BackgroundSpec:
    return BackgroundSpec(name="behind", body=sequence(*body))


def sub_pipeline(*body: Any, **terms: Any) -> SubPipelineSpec:
    return SubPipelineSpec(name="sub", body=sequence(*body), **terms)


class Replay:
    """A run whose decisions are applied as the manager and Redis would."""

    def __init__(self, *nodes: Any, limits: dict[str, int] | None = None, has_context: bool = False) -> None:
        self.spec = PipelineSpec(name="p", root=sequence(*nodes))
        self.limits = limits or {}
        self.nodes: dict[str, NodeState] = {}
        self.status = RunStatus.RUNNING
        self.error: dict[str, Any] | None = None
        self.has_context = has_context
        self.number = 0
        self.last = self.happen(EventKind.CREATED, "root")

    def view(self, *paths: str) -> RunView:
        """The run as load_run.lua gives it for events at these paths: their nodes and every node above, no other."""
        wanted = {"root"}
        for path in paths:
            while path and path not in wanted:
                wanted.add(path)
                path = re.sub(r"[.!]?[^.!]+$", "", path)
        return RunView(
            run_id="r",
            spec=self.spec,
            status=self.status,
            nodes={path: self.nodes[path] for path in wanted if path in self.nodes},
            limits=self.limits,
            free={"root": dict(self.limits)} if self.limits else {},
            has_context=self.has_context,
        )

    def decide(self, event: Event) -> Decision:
        """Advance, with what is missing loaded as the manager does."""
        view = self.view(event.path)
        decision = advance(view, [event])
        while decision.missing:
            more = {path: self.nodes.get(path, NodeState()) for path in decision.missing}
            assert not more.keys() & view.nodes.keys()  # nothing is asked for twice
            view = replace(view, nodes={**view.nodes, **more})
            decision = advance(view, [event])
        return decision

    def event(self, kind: EventKind, path: str, **fields: str) -> Event:
        self.number += 1
        attempt = str(self.nodes.get(path, NodeState()).attempt)
        return Event(id=f"{self.number}-0", kind=kind, path=path, fields={"attempt": attempt, **fields})

    def happen(self, kind: EventKind, path: str, **fields: str) -> Decision:
        event = self.event(kind, path, **fields)
        decision = self.decide(event)
        self.apply(decision)
        while decision.incomplete:
            decision = self.decide(event)
            self.apply(decision)
        self.last = decision
        return decision

    def apply(self, decision: Decision) -> None:
        self.nodes.update(decision.nodes)
        self.status, self.error = decision.status, decision.error

    def succeed(self, path: str, **fields: str) -> Decision:
        return self.happen(EventKind.SUCCEEDED, path, data='{"latency_ms":5}', **fields)

    def decided(self, path: str, **verdict: Any) -> Decision:
        """A control step is committed with a verdict."""
        return self.happen(EventKind.SUCCEEDED, path, data=json_bytes({"verdict": verdict}).decode())

    def fail(self, path: str, retryable: bool = True, **extra: Any) -> Decision:
        data = {"error": {"type": "ValueError", "message": "no"}, "retryable": retryable, **extra}
        return self.happen(EventKind.FAILED, path, data=json_bytes(data).decode())

    def lose(self, path: str, reason: str = "died") -> Decision:
        return self.happen(EventKind.LOST, path, reason=reason)

    @property
    def rests(self) -> bool:
        """Whether it waits for an answer."""
        return self.status is RunStatus.PAUSED

    def dispatched(self) -> list[tuple[str, int]]:
        return [(dispatch.path, dispatch.attempt) for dispatch in self.last.dispatches]


def task_of(decision: Decision, index: int = 0) -> TaskRecord:
    text = decision.dispatches[index].task
    assert text is not None
    return TaskRecord.model_validate_json(text)
