"""Chunks from workers: live, gathered, whole for whoever reads from the beginning, also after the end."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from flujo_client import AsyncFlujoClient, Chunk, Flujo, PipelineResult
from flujo_client.protocol.messages import Event, EventKind
from tests.integration.conftest import Fleet
from tests.integration.streams import TICKS, faltering, pieces, pouring


def _chunks(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind is EventKind.CHUNK]


async def test_chunks_arrive_while_the_step_runs_and_are_gathered(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "telling")
    run = await client.submit("telling", "tell-1", run_id="tell-1")
    events: list[Event] = []
    async for event in run.events():
        events.append(event)
        if event.kind is EventKind.CHUNK:
            fleet.open_gate("tell-1")

    chunks = _chunks(events)
    assert chunks[0].chunk == "one "
    assert "".join(chunk.chunk for chunk in chunks) == "one " + "x" * 3000
    assert [chunk.fields["sequence"] for chunk in chunks] == [str(n) for n in range(1, len(chunks) + 1)]
    assert {chunk.attempt for chunk in chunks} == {1}
    assert len(chunks) < 100
    assert (await run.result(timeout_s=60)).output == "one " + "x" * 3000
    assert [event.id async for event in run.events()] == [event.id for event in events]
    assert [event.id async for event in run.events(after=events[1].id)] == [event.id for event in events[2:]]


async def test_chunks_of_a_retried_step_say_which_attempt_and_none_is_dropped_for_being_equal(
    fleet: Fleet, client: AsyncFlujoClient
) -> None:
    await fleet.published(client, "faltering")
    run = await client.submit("faltering", "x")
    live = [event async for event in run.events()]
    result = await run.result(timeout_s=60)

    chunks = _chunks(live)
    shown = [(chunk.attempt, int(chunk.fields["sequence"]), chunk.chunk) for chunk in chunks]
    assert shown == [(attempt, number, tick) for attempt in (1, 2) for number, tick in enumerate(TICKS, start=1)]
    kinds = [event.kind for event in live if event.path == "0"]
    failed = kinds.index(EventKind.FAILED)
    assert (kinds[:failed], kinds[failed + 1 :]) == (
        [EventKind.CHUNK] * 4,
        [EventKind.CHUNK] * 4 + [EventKind.SUCCEEDED],
    )
    assert (result.output, result.step_history[0].attempts) == (str(list(TICKS)), 2)
    assert [event.id async for event in run.events()] == [event.id for event in live]


async def test_a_caller_sees_the_chunks_of_both_attempts_of_a_retried_step(fleet: Fleet) -> None:
    async with Flujo(faltering, settings=fleet.settings()) as flujo:
        outcomes = [outcome async for outcome in flujo.run_outcomes_async("x")]
        streamed = [item async for item in flujo.stream_async("x")]

    told = [(chunk.attempt, chunk.sequence, chunk.data) for chunk in outcomes if isinstance(chunk, Chunk)]
    assert told == [(attempt, number, tick) for attempt in (1, 2) for number, tick in enumerate(TICKS, start=1)]
    assert streamed[:-1] == [*TICKS, *TICKS]


async def test_a_large_chunk_and_bytes_reach_every_reader(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "dumping")
    run = await client.submit("dumping", 100_000)

    events = [event async for event in run.events()]

    large, binary = _chunks(events)
    assert (len(large.chunk["text"]), binary.chunk) == (100_000, b"\x00\xff")


async def test_a_chunk_that_is_too_large_is_the_steps_fault(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "dumping")
    run = await client.submit("dumping", 1_000_000)

    result = await run.result(timeout_s=60)

    assert "Emit it in pieces" in str(result.step_history[0].feedback)


async def _read_slowly(stream: AsyncIterator[Any], ended: Callable[[], Awaitable[Any]]) -> tuple[int, int]:
    """Read one item, and the others when everything has been written; how many there were, and the memory that these took."""
    await anext(stream)
    tracemalloc.start()
    try:
        await ended()
        number = 1
        async for _ in stream:
            number += 1
        return number, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("through", ["events", "stream_async"])
async def test_a_slow_reader_costs_memory_that_does_not_grow_with_the_stream(
    fleet: Fleet, client: AsyncFlujoClient, through: str
) -> None:
    await fleet.published(client, "pouring")
    count, run_id = 3_000, f"pour-{through}"

    async with Flujo(pouring, settings=fleet.settings()) as flujo:
        if through == "events":
            run = await client.submit("pouring", count, run_id=run_id)
            read, most = await _read_slowly(run.events(), run.result)
        else:
            stream = aiter(flujo.stream_async(count, run_id=run_id))
            read, most = await _read_slowly(stream, client.run(run_id).result)

    assert read > count  # 24 MB of chunks
    assert most < 6_000_000


async def test_a_caller_streams_from_the_fleet(fleet: Fleet, client: AsyncFlujoClient) -> None:
    await fleet.published(client, "pieces")
    async with Flujo(pieces, settings=fleet.settings()) as flujo:
        *chunks, result = [item async for item in flujo.stream_async("hello")]

    assert isinstance(result, PipelineResult)
    assert ("".join(chunks), result.output) == ("hellohello", "hellohello")
