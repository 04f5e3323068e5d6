"""`AsyncFlujoClient` against a Redis, without a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flujo_client.archive.dump import RunDumps
from flujo_client.client import AsyncFlujoClient
from flujo_client.events import RunReader
from flujo_client.protocol.durability import Fsync
from flujo_client.protocol.errors import ResultTimeoutError, RunConflictError
from flujo_client.protocol.keys import POOL, Keyspace
from flujo_client.protocol.settings import Settings
from flujo_client.sync_client import FlujoClient
from tests.unit.test_durability import Disk
from tests.unit.test_forking import SPEC, a_run

#: How a run went on, that is the business of none that is made of it.
_STORY = {"chunk_bytes": "4000", "left": "1", "dead_letters_dropped": "1", "gate": "closed", "owner": POOL}


@pytest.fixture
async def client(redis_url: str, keyspace: Keyspace) -> AsyncIterator[AsyncFlujoClient]:
    """On a namespace of its own, in which `r` has failed at its last step."""
    async with AsyncFlujoClient(settings=Settings(url=redis_url, namespace=keyspace.namespace)) as client:
        await _store(client, "r")
        yield client


async def _store(client: AsyncFlujoClient, run_id: str) -> None:
    run = a_run(SPEC)
    record = {**run.record, **_STORY, "run_id": run_id, "schema": "1", "spec": SPEC.content_hash, "traceparent": ""}
    dump = run.model_copy(update={"record": {**record, "metadata": ""}})
    assert await RunDumps(client.scripts, client.codec, client.specs).store(dump, POOL, [])


class TestFork:
    async def test_called_again_it_gives_the_fork_that_there_is(self, client: AsyncFlujoClient) -> None:
        first = await client.fork("r", "c", new_run_id="again")
        revision = await client.state.record("again")

        second = await client.fork("r", "c", new_run_id="again")

        assert (first.run_id, second.run_id) == ("again", "again")
        assert await client.state.record("again") == revision

    @pytest.mark.parametrize("step", ["a", "c"])
    async def test_an_id_that_another_run_has_is_refused(self, client: AsyncFlujoClient, step: str) -> None:
        await _store(client, "other")
        await client.fork("r", "both", new_run_id="fork")

        for taken in ("other", "fork", "r"):
            with pytest.raises(RunConflictError, match=f"Run id {taken} belongs to another run"):
                await client.fork("r", step, new_run_id=taken)

    async def test_an_id_that_would_break_messages_apart_is_refused(self, client: AsyncFlujoClient) -> None:
        with pytest.raises(ValueError, match="cannot be a run id"):
            await client.fork("r", "c", new_run_id="order 42")

        assert await client.state.record("order 42") == {}

    async def test_it_begins_anew_whatever_became_of_the_run(self, client: AsyncFlujoClient) -> None:
        await client.fork("r", "c", new_run_id="fork")

        record = await client.state.record("fork")
        assert record.keys() & {"chunk_bytes", "left", "dead_letters_dropped", "ahead", "final"} == set()
        assert (record["gate"], record["status"], record["forked_from"]) == ("open", "running", "r")

    async def test_it_waits_for_the_disk_as_a_submission_does(self, client: AsyncFlujoClient) -> None:
        disk = Disk([1, 0])
        disk.go_on.set()
        client._fsync = Fsync(disk, "k")

        await client.fork("r", "c", new_run_id="fork")

        assert disk.waits == 1


async def test_a_run_that_is_brought_back_has_a_new_stream(client: AsyncFlujoClient) -> None:
    assert "chunk_bytes" not in await client.state.record("r")


class _Deaf:
    """A Redis client that swallows cancellations, as redis-py can while it connects or writes."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def xread(self, *words: Any, **terms: Any) -> Any:
        try:
            return await self._client.xread(*words, **terms)
        except asyncio.CancelledError:
            return []


@pytest.mark.parametrize("waits", [RunReader.wait, RunReader.rest])
async def test_a_time_limit_holds_where_a_cancellation_is_swallowed(client: AsyncFlujoClient, waits: Any) -> None:
    await client.fork("r", "c", new_run_id="waiting")
    reader = RunReader(client.scripts.commands, _Deaf(client.blocking), client.keyspace, client.codec)

    waiting = asyncio.create_task(waits(reader, "waiting", 0.05))
    await asyncio.wait([waiting], timeout=10)

    assert waiting.done()
    with pytest.raises(ResultTimeoutError, match="is running after"):
        waiting.result()


class TestFlujoClient:
    async def test_made_or_used_in_a_running_loop_it_names_the_other_one(self) -> None:
        settings = Settings(url="redis://127.0.0.1:1")
        made = await asyncio.to_thread(FlujoClient, settings=settings)

        with pytest.raises(TypeError, match="use AsyncFlujoClient"):
            FlujoClient(settings=settings)
        with pytest.raises(TypeError, match="use AsyncFlujoClient"):
            made.submit("digest", "x")

        await asyncio.to_thread(made.close)
