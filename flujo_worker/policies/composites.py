"""Runs control steps: the functions of composites."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flujo_client.protocol.context import snapshot_of
from flujo_worker.attempt import Attempt, AttemptEnd
from flujo_worker.bodies import SyncBodies
from flujo_worker.policies.control import ControlCall
from flujo_worker.policies.hitl import paused_attempt
from flujo_worker.policies.inputs import InputReader
from flujo_worker.policies.store import ControlStore
from flujo_worker.policies.table import CONTROLS
from flujo_worker.registry import Registry

__all__ = ["ControlSteps"]


class ControlSteps:
    """Runs what `CONTROLS` has for an attempt.

    Args:
        reader: Of payloads.
        registry: Which has the functions.
        bodies: Runs sync ones.
        store_of: Makes what an attempt may store.
        live: The in-process mode: sync functions run on the loop.
    """

    def __init__(
        self,
        reader: InputReader,
        registry: Registry,
        bodies: SyncBodies,
        store_of: Callable[[Attempt], ControlStore],
        *,
        live: bool,
    ) -> None:
        self._bodies = bodies
        self._store_of = store_of
        self._reader = reader
        self._registry = registry
        self._live = live

    async def run(self, attempt: Attempt) -> AttemptEnd:
        """Run the control step of an attempt. Raises whatever the user's functions raise."""
        task, inputs = attempt.task, self._reader.of(attempt)
        functions = {role: self._registry.control(reference) for role, reference in task.roles.items()}
        first = next(iter(functions.values()), None)
        model = self._registry.context_model_for(
            first.context_type if first else Any, task.context_model, next(iter(task.roles.values()), "")
        )
        context = inputs.context(model)
        call = ControlCall(
            task=task,
            value=inputs.by_field() if task.references else inputs.for_control(first.input_type if first else Any),
            context=context.model,
            base=inputs.context_data(task.context),
            branches={branch: inputs.context_data(names) for branch, names in task.branches.items()},
            functions=functions,
            calling=partial(setattr, attempt, "role"),
            in_thread=partial(self._bodies.run, attempt),
            live=self._live,
            model_of=lambda data, branch=None: inputs.context_of(data, model, branch),
            beside=inputs.earlier_outputs,
            outputs_of=inputs.outputs_of,
            typed=inputs.typed,
            store=self._store_of(attempt),
            resources=self._registry.resources,
            run_id=attempt.ref.run_id,
        )
        end = await CONTROLS[task.kind, task.control](call)
        if end.question is not None:
            return paused_attempt(end.question, context)
        change = context.change() if end.context is None else ("snapshot", snapshot_of(end.context))
        output = end.outputs[0] if end.outputs else None
        return AttemptEnd("succeeded", output, context=change, verdict=end.verdict, stores=bool(end.outputs))
