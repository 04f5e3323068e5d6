"""What earlier releases have stored, this one goes on with: runs that had ended, were held, waited for an answer, had a budget."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import redis

from flujo_client import AsyncFlujoClient, RunStatus, Settings
from flujo_client.audit import Auditor
from flujo_client.protocol.errors import SchemaMismatchError
from flujo_client.protocol.messages import EventKind
from tests.integration.conftest import TIMEOUT_S, Fleet, _making
from tests.releases.pipelines import GATE, TOKENS
from tests.releases.record import MODULE, load, recordings

pytestmark = pytest.mark.timeout(200)

make_own_fleet = pytest.fixture(_making)

#: Of each run: its output, and the tokens that it used; a text that says nothing of its usage counts as one.
ENDS = {
    "running": (4, 3 * TOKENS),
    "budget": (7, 4 * TOKENS),
    "looping": (5, 4 * TOKENS),
    "paused": ("True of 1", TOKENS + 1),
}


@pytest.fixture(params=recordings(), ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest, make_own_fleet: Callable[..., Fleet]) -> Fleet:
    """A Redis with what a release has stored; nobody works on it yet."""
    file: Path = request.param
    fleet = make_own_fleet("release", FLUJO_PIPELINES=MODULE)
    with redis.Redis.from_url(fleet.url) as client:
        load(client, json.loads(file.read_text()))
    return fleet


@pytest.fixture
async def client(recorded: Fleet) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=Settings(url=recorded.url)) as connected:
        yield connected


async def test_this_release_goes_on_with_the_runs_of_a_release(recorded: Fleet, client: AsyncFlujoClient) -> None:
    ended = await client.run("finished").result(TIMEOUT_S)
    assert (ended.output, ended.usage["tokens"]) == (3, 2 * TOKENS)
    kinds = [event.kind async for event in client.run("finished").events()]
    assert (kinds[0], kinds[-1], kinds.count(EventKind.SUCCEEDED)) == (EventKind.CREATED, EventKind.FINISHED, 2)
    recorded.open_gate(GATE)
    recorded.manager()
    recorded.worker()
    assert await client.run("paused").status() is RunStatus.PAUSED
    (pause,) = await client.run("paused").pauses()
    assert pause.message == "Publish 2?"
    await client.run("paused").resume({"approved": True})

    for name, (output, tokens) in ENDS.items():
        result = await client.run(name).result(TIMEOUT_S)
        assert (name, result.status, result.output) == (name, RunStatus.COMPLETED, output)
        assert result.usage["tokens"] == tokens, f"{name}: what was committed is not paid again"
        assert await Auditor(client.client, client.keyspace).audit(name) == []


async def test_a_run_of_a_newer_release_is_one_clear_error(recorded: Fleet, client: AsyncFlujoClient) -> None:
    await client.client.hset(client.keyspace.run("paused").run, "schema", "99")

    for call in (
        lambda: client.run("paused").resume({"approved": True}),
        lambda: client.run("paused").status(),
        lambda: client.run("paused").result(TIMEOUT_S),
    ):
        with pytest.raises(SchemaMismatchError, match=r"Run paused was written with schema 99.* Upgrade this process"):
            await call()
    assert await client.run("finished").status() is RunStatus.COMPLETED
