"""F13: a thousand subscribers of one stream, slow ones and late ones among them, and a worker that dies in mid-sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flujo_client.protocol.messages import Event, EventKind
from tests.faults.rounds import Round
from tests.faults.stories import CHUNK_BYTES, STORY

__all__ = ["STREAM_FAULTS"]

SUBSCRIBERS = 1_000

#: Redis may hold one page of a stream for each subscriber that does not take its reply, and no more.
_BYTES_PER_SUBSCRIBER = 256_000


async def follow_in_a_crowd(this: Round) -> None:
    chunks = this.chance.randrange(8, 24)
    most_bytes = (chunks + chunks // 4) * CHUNK_BYTES  # room for one whole attempt, not for all of the lost one too
    workers = [this.arena.worker(STORY, FLUJO_STREAM_MAX_BYTES=str(most_bytes)) for _ in range(2)]
    run_id = f"{this.name}-0"
    this.inputs[run_id] = "telling", {"laps": chunks, "hold_at": 0, "pace_ms": this.chance.randrange(1, 10)}
    run = this.client.run(run_id)
    try:
        for worker in workers:
            await this.arena.at_work(worker)
        await this.submit()
        live = [asyncio.create_task(_read(run.events())) for _ in range(SUBSCRIBERS - 10)]
        live += [asyncio.create_task(_read(run.events(), 0.02)) for _ in range(10)]
        halfway = await this.until(lambda: this.entries(kind="halfway"), "the first half is told")
        if kill := this.chance.random() < 0.7:
            this.kill(halfway[0]["pid"])
            await this.until(lambda: len(this.entries(kind="halfway")) == 2, "another worker has begun anew")
        this.how = f"{chunks} chunks, {'a kill in the middle' if kill else 'no kill'}"
        this.open_gates()
        await this.all_end()
        told = await asyncio.gather(*live)
        memory = await this.client.client.info("memory")
        late = [await _read(run.events()) for _ in range(3)]
    finally:
        for worker in workers:
            worker.terminate()
            await asyncio.to_thread(worker.wait)
    this.violations += _judge(run_id, chunks, most_bytes, late[0])
    stored = [event.id for event in late[0]]
    this.violations += [f"I9 {run_id}: a late reader sees another stream" for other in late if _ids(other) != stored]
    this.violations += sorted({line for events in told for line in _judge_reader(run_id, events, stored)})
    grown = int(memory.get("mem_clients_normal", 0))
    if grown > SUBSCRIBERS * _BYTES_PER_SUBSCRIBER:
        this.violations.append(f"I9 {run_id}: Redis holds {grown} bytes for its readers")


async def _read(events: Any, pause_s: float = 0.0) -> list[Event]:
    seen = []
    async for event in events:
        seen.append(event)
        if pause_s:
            await asyncio.sleep(pause_s)
    return seen


def _ids(events: Sequence[Event]) -> list[str]:
    return [event.id for event in events]


def _judge(run_id: str, chunks: int, most_bytes: int, events: Sequence[Event]) -> list[str]:
    """What is stored: the last attempt whole and in order, and no more than may be."""
    told = []
    last = max(event.attempt or 0 for event in events)
    said = [event.chunk["number"] for event in events if event.kind is EventKind.CHUNK and event.attempt == last]
    if said != list(range(chunks)):
        told.append(f"I9 {run_id}: the last attempt said {said}, not {chunks} chunks in order")
    kept = sum(len(event.fields["data"]) for event in events if event.kind is EventKind.CHUNK)
    if kept > most_bytes + 100 * chunks:
        told.append(f"I9 {run_id} keeps {kept} bytes of chunks, more than {most_bytes}")
    return told


def _judge_reader(run_id: str, events: Sequence[Event], stored: Sequence[str]) -> list[str]:
    """What a live reader saw: all that is stored, each once, in order; beyond that chunks of a lost attempt only."""
    told = []
    ids = _ids(events)
    if sorted(set(ids), key=_place) != ids:
        told.append(f"I9 {run_id}: a reader saw events twice or out of order")
    if set(stored) - set(ids):
        told.append(f"I9 {run_id}: a reader missed {len(set(stored) - set(ids))} events")
    last = max(event.attempt or 0 for event in events)
    if any(event.id not in set(stored) and event.attempt == last for event in events):
        told.append(f"I9 {run_id}: a reader saw of the last attempt what is not stored")
    if events[-1].kind is not EventKind.FINISHED:
        told.append(f"I9 {run_id}: a reader ended with {events[-1].kind}")
    return told


def _place(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


STREAM_FAULTS: dict[str, tuple[str, Callable[[Round], Awaitable[Any]]]] = {
    "F13": ("1,000 subscribers of a stream, slow and late ones, and a worker killed in the middle", follow_in_a_crowd),
}
