"""Control steps of parallel nodes: the context that branches start with, the merge of what they made of it, the reducer."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from flujo_client.protocol.context import ContextData
from flujo_client.protocol.errors import NonRetryableError
from flujo_client.protocol.merging import MergeRules, merge_contexts
from flujo_client.protocol.pipeline_context import stored_fields
from flujo_client.protocol.results import FAILED_BRANCH, StepResult
from flujo_worker.policies.control import ControlCall, ControlEnd
from flujo_worker.policies.references import complete_result

__all__ = ["BranchResults", "merge_branches", "narrow_context"]


class BranchResults(list[StepResult]):
    """The results of branches in declared order. Asked by a branch's name, or for `items()` and the like, it gives outputs."""

    def __init__(self, names: Iterable[str], results: Iterable[StepResult]) -> None:
        super().__init__(results)
        self._names = list(names)

    def keys(self) -> list[str]:
        """The branches."""
        return list(self._names)

    def values(self) -> list[Any]:
        """Their outputs; of one that failed, its `StepResult`."""
        return [result.output if result.success else result for result in self]

    def items(self) -> Iterator[tuple[str, Any]]:
        """Each branch with its output."""
        return zip(self._names, self.values(), strict=True)

    def __getitem__(self, place: Any) -> Any:
        return self.values()[self._names.index(place)] if isinstance(place, str) else super().__getitem__(place)


async def narrow_context(call: ControlCall) -> ControlEnd:
    """Keep the fields that branches are to have; the others are as the model has them at first."""
    kept = {key: value for key, value in call.base.items() if key in (*call.task.arguments["keys"], "run_id")}
    return ControlEnd(context=stored_fields(call.model_of(kept)))


async def merge_branches(call: ControlCall) -> ControlEnd:
    """Merge the contexts of the branches that succeeded, in declared order; then reduce all results, or store those that failed.

    Raises:
        ContextMergeError: Two branches set different values.
        NonRetryableError: The reducer returned a `StepResult` that is no success.
    """
    context = await _merged(call) if call.task.merge else None
    if "reduce" not in call.functions:
        await call.store.stash(_results(call), FAILED_BRANCH)
        return ControlEnd(context=context)
    model = call.context if context is None else call.model_of(context)
    function = call.functions["reduce"]
    results = _results(call)
    given: Any = dict(results.items()) if _takes_outputs(function.input_type) else results
    answer = await call.call("reduce", given, *([model] if function.takes > 1 else []))
    changed = {**(call.base if context is None else context), **stored_fields(model)}
    if not isinstance(answer, StepResult):
        return ControlEnd(outputs=(answer,), context=changed)
    if not answer.success:
        raise NonRetryableError(answer.feedback or "The reducer's result is no success")
    told = {"feedback": answer.feedback, "metadata": answer.metadata_}
    return ControlEnd(outputs=(answer.output,), verdict=told, context=changed)


async def _merged(call: ControlCall) -> ContextData:
    arguments, branches = call.task.arguments, dict(call.branches)
    given = branches.pop("", None)
    if "merge" not in call.functions:
        rules = MergeRules(call.task.merge, arguments["numbers"], arguments["field_mapping"])
        return merge_contexts(call.base, branches, rules, given)
    models = {name: call.model_of(data, name) for name, data in branches.items()}
    answer = await call.call("merge", call.context, models)
    model = answer if isinstance(answer, BaseModel) else call.context
    return {**call.base, **stored_fields(model)}


def _results(call: ControlCall) -> BranchResults:
    arguments = call.task.arguments
    results = []
    for name, part in zip(arguments["names"], arguments["results"], strict=True):
        result = StepResult.model_validate(complete_result(part, call.value))
        result.output = call.typed(arguments["producers"].get(name, ""), result.output)
        results.append(result)
    return BranchResults(arguments["names"], results)


def _takes_outputs(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)
