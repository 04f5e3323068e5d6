"""Streams of chunks in process: what streams, what followers get, and what the output is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flujo_client import Flujo, PipelineResult, RunStatus, Step, StepRun, step
from flujo_client.protocol.errors import PayloadError
from flujo_client.protocol.outcomes import Chunk, Success
from flujo_client.protocol.payloads import LARGEST_CHUNK, JsonCodec, chunk_text, read_chunk


@step
async def spell(word: str) -> AsyncIterator[str]:
    for letter in word:
        yield letter


@step
async def upper(word: str) -> str:
    return word.upper()


async def _streamed(pipeline: Any, value: Any) -> list[Any]:
    async with Flujo(pipeline) as flujo:
        return [item async for item in flujo.stream_async(value)]


async def test_an_async_generator_streams_and_its_output_is_what_it_yielded() -> None:
    *chunks, result = await _streamed(spell >> upper, "hello")

    assert chunks == ["h", "e", "l", "l", "o"]  # repeated text is not dropped
    assert (result.output, result.step_history[0].output) == ("HELLO", "hello")


async def test_chunks_arrive_while_the_step_runs() -> None:
    first_seen = asyncio.Event()

    @step
    async def talk(word: str) -> AsyncIterator[str]:
        yield "first"
        await asyncio.wait_for(first_seen.wait(), 10)
        yield "second"

    async with Flujo(talk) as flujo:
        async for item in flujo.stream_async("x"):
            if item == "first":
                first_seen.set()

    assert item.output == "firstsecond"


@pytest.mark.parametrize(
    ("chunks", "output"),
    [([b"a", b"b"], b"ab"), ([1, {"x": 2}], "[1, {'x': 2}]"), (["a", 1], "['a', 1]"), ([], "")],
)
async def test_text_and_bytes_are_joined_and_the_rest_is_the_text_of_a_list(chunks: list[Any], output: Any) -> None:
    @step
    async def talk(value: Any) -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    *seen, result = await _streamed(talk, 1)

    assert (seen, result.output) == (chunks, output)


class Agent:
    """Answers whole, or in pieces."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def run(self, word: str) -> str:
        self.calls.append("run")
        return f"<{word}>"

    async def stream(self, word: str) -> AsyncIterator[str]:
        self.calls.append("stream")
        for piece in ("<", word, ">"):
            yield piece


async def test_an_agent_streams_where_it_is_the_last_step_and_runs_elsewhere() -> None:
    first, last = Agent(), Agent()
    pipeline = Step(name="first", agent=first) >> Step(name="last", agent=last)

    *chunks, result = await _streamed(pipeline, "a")

    assert (chunks, result.output) == (["<", "<a>", ">"], "<<a>>")
    assert (first.calls, last.calls) == (["run"], ["stream"])


async def test_an_agent_that_can_only_stream_streams_anywhere() -> None:
    class Teller:
        async def stream(self, word: str) -> AsyncIterator[str]:
            yield word
            yield "!"

    *chunks, result = await _streamed(Step(name="tell", agent=Teller()) >> upper, "a")

    assert (chunks, result.output) == (["a", "!"], "A!")


async def test_outcomes_tell_step_sequence_and_attempt() -> None:
    attempts: list[int] = []

    @step(max_retries=1)
    async def flaky(word: str, run: StepRun) -> AsyncIterator[str]:
        attempts.append(run.attempt)
        yield "a"
        if run.attempt == 1:
            raise ConnectionError("broken off")
        yield "b"

    async with Flujo(flaky) as flujo:
        outcomes = [item async for item in flujo.run_outcomes_async("x")]

    chunks = [item for item in outcomes if isinstance(item, Chunk)]
    assert [(chunk.data, chunk.step_name, chunk.attempt, chunk.sequence) for chunk in chunks] == [
        ("a", "flaky", 1, 1),
        ("a", "flaky", 2, 1),
        ("b", "flaky", 2, 2),
    ]
    assert isinstance(outcomes[3], Success)


async def test_a_stream_that_breaks_off_shows_what_there_was_and_fails() -> None:
    @step(max_retries=0)
    async def broken(word: str) -> AsyncIterator[str]:
        yield "a"
        raise ValueError("mid-stream")

    *chunks, result = await _streamed(broken, "x")

    assert isinstance(result, PipelineResult)
    assert (chunks, result.status) == (["a"], RunStatus.FAILED)
    assert "mid-stream" in str(result.step_history[0].feedback)


@pytest.mark.parametrize("chunk", ["text", b"\x00\xff", 5, {"$bytes": 1, "x": 2}, None, ["a"]])
def test_a_chunk_survives_the_wire(chunk: Any) -> None:
    codec = JsonCodec(10_000)

    assert codec.decode_chunk(codec.encode_chunk(chunk).decode()) == chunk
    assert read_chunk(chunk_text(chunk).decode()) == chunk


def test_a_chunk_that_is_too_large_is_refused() -> None:
    with pytest.raises(PayloadError, match="larger than the limit"):
        chunk_text(["x" * LARGEST_CHUNK])


async def test_finished_streams_leave_no_chunks_in_the_memory_of_the_process() -> None:
    async with Flujo(spell) as flujo:
        await flujo.run_async("hello")

        assert not flujo._memory.codec._values
