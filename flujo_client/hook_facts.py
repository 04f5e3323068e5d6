"""`HookFacts`: what hooks in the caller are told of a run beside the bare events: values, contexts, results of nodes."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from flujo_client.events import RunReader
from flujo_client.execution.decision import FRESH, Decision, NodeState, RunView
from flujo_client.execution.graph import RunGraph
from flujo_client.execution.kinds.table import KINDS
from flujo_client.protocol.results import PipelineResult, StepResult
from flujo_client.state import StateManager

__all__ = ["HookFacts"]


class HookFacts:
    """Reads what payloads of hooks show. Only where there are hooks: each fact costs a read.

    Args:
        state: The runs.
        reader: Of payloads.
        context_model: Of contexts.
    """

    def __init__(self, state: StateManager, reader: RunReader, context_model: type[BaseModel]) -> None:
        self._state = state
        self._reader = reader
        self._context_model = context_model

    async def result(self, run: RunView, decision: Decision, path: str) -> StepResult:
        """The result of a node that the decision ends, with its parts and outputs."""
        stored_nodes = await self._state.all_nodes(run.run_id)
        nodes = {**stored_nodes, **decision.nodes}
        below = [at for at in nodes if at == path or at.startswith(f"{path}.")]
        committed = await self._state.step_results(run.run_id, [at for at in below if nodes[at].attempt])
        return await self._reader.step_result(run.run_id, _graph(run, nodes, committed).results(path))

    async def run_result(self, run_id: str, skeleton: dict[str, Any]) -> PipelineResult:
        """The result of a run, with its outputs and context. The one that is to be stored stays as it is."""
        return await self._reader.complete(run_id, deepcopy(skeleton), context_model=self._context_model)

    async def input(self, run: RunView, decision: Decision, path: str) -> Any:
        """The input of a node that the decision starts."""
        graph = await self._whole(run, decision)
        return await self._reader.value(run.run_id, graph.input(path))

    async def context(self, run: RunView, decision: Decision, path: str) -> BaseModel | None:
        """The context that a node sees; None if the run has none."""
        graph = await self._whole(run, decision)
        names = graph.context(path)
        return await self._reader.context(run.run_id, names, self._context_model) if names else None

    async def _whole(self, run: RunView, decision: Decision) -> RunGraph:
        nodes = await self._state.all_nodes(run.run_id)
        return _graph(run, {**nodes, **decision.nodes}, {})


def _graph(run: RunView, nodes: Mapping[str, NodeState], stored: Mapping[str, dict[str, Any]]) -> RunGraph:
    return RunGraph(run.spec, KINDS, lambda path: nodes.get(path, FRESH), stored)
