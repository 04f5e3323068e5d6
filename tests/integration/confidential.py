"""Pipelines whose steps handle secrets, and lose some of them in ways that code does: in exceptions, hooks, chunks and metadata."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx
from pydantic import BaseModel

from flujo_client import AppResources, Pipeline, PipelineContext, StepRun, step
from flujo_client.metering.transport import MeteredTransport

#: The provider's stub: its address, and the key that it wants.
ADDRESS, PROVIDER_KEY = "TEST_PROVIDER", "TEST_PROVIDER_KEY"


class Provider(AppResources):
    """A provider, with its key in the headers of every request."""

    async def ask(self, text: str) -> str:
        headers = {"Authorization": f"Bearer {os.environ[PROVIDER_KEY]}"}
        transport: Any = MeteredTransport(httpx.AsyncHTTPTransport())
        async with httpx.AsyncClient(base_url=os.environ[ADDRESS], headers=headers, transport=transport) as client:
            body = {"model": "gpt-4o-mini", "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
            answer = await client.post("/v1/chat/completions", json=body)
        return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])


flujo_resources = Provider()


class Patient(BaseModel):
    name: str


class File(PipelineContext):
    notes: str = ""


@step(max_retries=0, expected_tokens=10)
async def ask(patient: Patient, run: StepRun, *, context: File, resources: Provider) -> str:
    """Sends the input to the provider, and keeps what comes back in output, context and stream."""
    answer = await resources.ask(patient.name)
    context.notes = f"context-{answer}"
    await run.emit(f"chunk-{answer}")
    return f"output-{answer}"


@step
async def repeat(text: str) -> str:
    return text


consulting = (ask >> repeat).named("consulting")


@step(max_retries=1, backoff_s=0.01)
async def fail(patient: Patient) -> str:
    try:
        return {"nobody": ""}[patient.name]
    except KeyError as error:
        raise ValueError(f"exception-{patient.name}") from error


failing = Pipeline([fail], name="failing")


@step(max_retries=0)
async def stray(patient: Patient) -> Any:
    return f"stray-{patient.name}"


@step
async def add(number: int) -> int:
    return number + 1


straying = (stray >> add).named("straying")


@step(max_retries=0)
async def wait(patient: Patient, run: StepRun) -> str:
    await asyncio.sleep(60)
    return patient.name


waiting = Pipeline([wait], name="waiting")
