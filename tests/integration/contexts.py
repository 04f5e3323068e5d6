"""Pipelines whose steps share a context, for workers and for the in-process mode alike."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from flujo_client import (
    ContextReference,
    MergeStrategy,
    Pipeline,
    PipelineContext,
    Step,
    StepRun,
    step,
)
from tests.integration.pipelines import LEDGER_VARIABLE, ledger, pass_gate


class Item(BaseModel):
    name: str
    count: int = 0


class Story(PipelineContext):
    n: int = 0
    items: list[Item] = Field(default_factory=list)
    by_name: dict[str, Item] = Field(default_factory=dict)
    large: ContextReference = ContextReference(provider_id="files", key="story")


class Files:
    """A state provider beside the ledger."""

    def _path(self, key: str) -> Path:
        return Path(os.environ[LEDGER_VARIABLE]).with_name(f"state-{key}")

    async def load(self, key: str) -> Any:
        path = self._path(key)
        return json.loads(path.read_text()) if path.exists() else None

    async def save(self, key: str, value: Any) -> None:
        self._path(key).write_text(json.dumps(value))


flujo_context_model = Story
flujo_state_providers = {"files": Files()}


@step
async def remember(data: str, run: StepRun, *, context: Story) -> str:
    ledger("started", run)
    context.n += 1
    context.items.append(Item(name=data))
    context.by_name[data] = Item(name=data, count=len(data))
    context.extra = {"kept": [1, None]}
    return data


@step
async def wait_for_gate(data: str, run: StepRun, *, context: Story) -> list[Any]:
    ledger("started", run)
    context.n += 10  # of an attempt that dies, nothing is left
    await pass_gate(f"context-{run.run_id}")
    return [context.n, context.items[0].name, context.by_name[data].count]


@step
async def recall(data: list[Any], run: StepRun, *, context: Story) -> list[Any]:
    ledger("started", run)
    return [*data, context.n, context.extra]  # type: ignore[attr-defined]  # see above


remembering = Pipeline([remember, wait_for_gate, recall], name="remembering")


def counted(name: str, amount: int) -> Step[Any, Any]:
    return Step(name=name, agent=Count(amount), config=remember.config)


class Count:
    def __init__(self, amount: int) -> None:
        self.amount = amount

    async def run(self, data: str, *, context: Story) -> str:
        context.n += self.amount
        context.items.append(Item(name=f"{data}{self.amount}"))
        return data


@step
async def is_isolated(data: str, *, context: Story) -> int:
    return context.n


@step
async def joined(parts: dict[str, Any], *, context: Story) -> list[Any]:
    return [parts["reader"], context.n, [item.name for item in context.items]]


counting = Pipeline(
    [
        remember,
        Step.parallel(
            "count",
            {
                "one": counted("one", 1) >> counted("two", 2),
                "other": counted("three", 3),
                "reader": is_isolated,
            },
            merge_strategy=MergeStrategy.CONTEXT_UPDATE,
        ),
        joined,
    ],
    name="counting",
)


@step
async def write_large(data: str, *, context: Story) -> str:
    context.large.set({"text": data * 2, "before": context.large.get()})
    return data


@step
async def change_large(data: str, *, context: Story) -> str:
    context.large.set({**context.large.get(), "text": context.large.get()["text"] + "!"})
    return data


@step
async def read_large(data: str, *, context: Story) -> Any:
    return context.large.get()


referring = Pipeline([write_large, change_large, read_large], name="referring")
