"""`ChunkStream`: few events for many chunks, in order, whatever Redis does meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from flujo_client.protocol.errors import PayloadError, StateUnavailableError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.messages import Event
from flujo_client.protocol.payloads import JsonCodec
from flujo_client.protocol.replies import Claim
from flujo_client.protocol.scripts import Scripts
from flujo_worker.policies import streaming
from flujo_worker.policies.streaming import ChunkStream
from tests.lua.runs import a_dispatch, new_claim, started_run


class Followed:
    """A stream of a claimed attempt, and what its followers see."""

    def __init__(self, scripts: Scripts, client: redis.Redis, keyspace: Keyspace, claim: Claim) -> None:
        self.stream = ChunkStream(scripts, JsonCodec(10_000_000), claim, 1_000_000, live=False)
        self._client, self._key = client, keyspace.run("r1").events

    def seen(self) -> list[Any]:
        entries: Any = self._client.xrange(self._key, min="(0-0", count=10_000)
        events = [Event.parse(entry_id, fields) for entry_id, fields in entries]
        return [event.chunk for event in events if event.kind == "chunk"]


@pytest.fixture
async def followed(scripts: Scripts, plain_redis: redis.Redis, keyspace: Keyspace) -> Followed:
    await started_run(scripts, a_dispatch("0"))
    claim = new_claim()
    await scripts.reserve(claim, POOL)
    return Followed(scripts, plain_redis, keyspace, claim)


async def test_the_first_chunk_goes_at_once_and_the_next_ones_together(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_GATHER_S", 3600)
    for letter in "hello":
        await followed.stream.write(letter)
    assert followed.seen() == ["h"]

    await followed.stream.flush()

    assert followed.seen() == ["h", "ello"]


async def test_what_is_gathered_goes_when_its_time_has_come(followed: Followed) -> None:
    await followed.stream.write("a")
    await followed.stream.write("b")

    async with asyncio.timeout(10):
        while followed.seen() != ["a", "b"]:
            await asyncio.sleep(0)


async def test_enough_text_goes_without_waiting(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_GATHER_S", 3600)
    await followed.stream.write("a")

    await followed.stream.write("b" * 5000)

    assert followed.seen() == ["a", "b" * 5000]


async def test_text_joins_text_and_bytes_join_bytes_and_the_order_is_kept(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_GATHER_S", 3600)
    for chunk in ("0", "a", "b", b"c", b"d", {"e": 1}, {"e": 2}, "f"):
        await followed.stream.write(chunk)
    await followed.stream.flush()

    assert followed.seen() == ["0", "ab", b"cd", {"e": 1}, {"e": 2}, "f"]


async def test_a_very_long_text_goes_in_pieces(followed: Followed) -> None:
    await followed.stream.write("x" * 100_000)

    pieces = followed.seen()
    assert len(pieces) == 4
    assert "".join(pieces) == "x" * 100_000


async def test_a_redis_that_is_away_loses_no_chunk(
    followed: Followed, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_RETRY_S", 0)
    emit, away = scripts.emit, [StateUnavailableError("away")] * 2

    async def failing(*words: Any) -> Any:
        if away:
            raise away.pop()
        return await emit(*words)

    monkeypatch.setattr(scripts, "emit", failing)

    await followed.stream.write("a")

    assert followed.seen() == ["a"]


async def test_after_the_lease_is_lost_nothing_is_sent(followed: Followed, scripts: Scripts) -> None:
    await scripts.cancel("r1", POOL, "enough")

    await followed.stream.write(1)
    await followed.stream.write(2)

    assert followed.seen() == []


async def test_what_cannot_be_sent_is_told_at_once(followed: Followed) -> None:
    with pytest.raises(PayloadError):
        await followed.stream.write(object())
