"""What a run's events tell its caller before its end: chunks, and launches of background steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from flujo_client.dsl.pipeline import Step
from flujo_client.execution.graph import step_at
from flujo_client.protocol.messages import Event
from flujo_client.protocol.outcomes import BackgroundLaunched, Chunk
from flujo_client.protocol.payloads import PayloadCodec
from flujo_client.protocol.spec import BackgroundSpec, PipelineSpec

__all__ = ["chunk_of", "launch_of", "tells", "unless"]


async def unless(broken: asyncio.Future[None], items: AsyncIterator[Event]) -> AsyncGenerator[Event]:
    """Items as they come, until something breaks that they would wait for in vain."""
    while True:
        coming = asyncio.ensure_future(anext(items, None))
        waiting: list[asyncio.Future[Any]] = [coming, broken]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            coming.cancel()  # nothing, if it has come
        if not coming.done():
            broken.result()
        item = await coming
        if item is None:
            return
        yield item


def chunk_of(codec: PayloadCodec, event: Event, spec: PipelineSpec) -> Chunk:
    """The outcome that tells callers of a chunk's event."""
    return Chunk(
        data=codec.decode_chunk(event.fields["data"]),
        step_name=step_at(spec, event.path).name,
        attempt=event.attempt,
        sequence=int(event.fields["sequence"]),
    )


def tells(part: Step[Any, Any]) -> bool:
    """Whether a step has something to tell before the run's end."""
    streams = not part.is_complex and ("run" in part.injects or part.stream_call is not None)
    return part.in_background or streams


def launch_of(event: Event, spec: PipelineSpec) -> BackgroundLaunched:
    """The outcome that tells callers that a background step was launched."""
    node = spec.node(event.path)
    assert isinstance(node, BackgroundSpec)
    return BackgroundLaunched(task_id=event.data["verdict"]["task_id"], step_name=node.name)
