"""Flower as docker-compose.yml starts it, as its own user of deploy/users.acl: it sees everything that it should, and can do nothing."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from flujo_client import AsyncFlujoClient, Settings
from flujo_client.cli.redis_server import free_port
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet

PASSWORD = "me:a-password"

#: What a run of the test works on; Flower must not show it.
SECRET = "not-for-flower"


@dataclass
class Watched:
    """A fleet whose parties each have their own user, and where its Flower listens."""

    fleet: Fleet
    port: int

    def url(self, role: str) -> str:
        return self.fleet.url.replace("redis://", f"redis://flujo-{role}:change-me-{role}@")

    def ask(self, path: str, password: str = PASSWORD, method: str = "GET") -> tuple[int, str]:
        """The status and text of Flower's answer; 0 if it does not answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        if password:
            request.add_header("Authorization", f"Basic {base64.b64encode(password.encode()).decode()}")
        if method == "POST":
            request.data = b""
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def tasks(self) -> dict[str, Any]:
        status, text = self.ask("/api/tasks?limit=1000")
        return dict(json.loads(text)) if status == 200 else {}


def _command() -> list[str]:
    """How the compose file starts Flower, without the executable."""
    found = re.search(r'command: (\["celery", .*"flower".*\])', (ROOT / "docker-compose.yml").read_text())
    assert found is not None
    return list(json.loads(found[1]))


@pytest.fixture
async def watched(make_own_fleet: Callable[..., Fleet], tmp_path_factory: pytest.TempPathFactory) -> Watched:
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    users.write_text((ROOT / "deploy/users.acl").read_text())
    made = Watched(make_own_fleet("flower", "--aclfile", str(users)), free_port())
    made.fleet.manager(FLUJO_URL=made.url("manager"))
    made.fleet.worker(FLUJO_URL=made.url("worker"))
    words = ["-m", *_command(), "--address=127.0.0.1", f"--port={made.port}"]
    made.fleet.start_process(*words, name="flower", FLUJO_URL=made.url("flower"), FLOWER_BASIC_AUTH=PASSWORD)
    return made


@pytest.fixture
async def client(watched: Watched) -> AsyncIterator[AsyncFlujoClient]:
    async with AsyncFlujoClient(settings=Settings(url=watched.url("client"))) as connected:
        await watched.fleet.published(connected, "digest")
        yield connected


@pytest.mark.timeout(200)
async def test_it_sees_workers_and_steps_and_can_do_nothing(watched: Watched, client: AsyncFlujoClient) -> None:
    run_id = await _shown_run(watched, client)

    status, workers = await asyncio.to_thread(watched.ask, "/api/workers?refresh=1")
    assert status == 200
    (worker,) = json.loads(workers)
    seen = [task for task in (await asyncio.to_thread(watched.tasks)).values() if task["root_id"] == run_id]
    assert {task["worker"] for task in seen} == {worker}
    assert SECRET not in json.dumps(seen)
    details = await asyncio.to_thread(watched.ask, f"/api/task/info/{run_id}%2F0%2F1")
    assert SECRET not in details[1]

    for path in ("/", "/workers", "/tasks", "/api/workers", "/api/tasks", "/broker"):
        assert (await asyncio.to_thread(watched.ask, path, ""))[0] == 401, path
        assert (await asyncio.to_thread(watched.ask, path, "me:guess"))[0] == 401, path
    for path in (
        f"worker/shutdown/{worker}",
        f"worker/pool/shrink/{worker}",
        "task/send-task/flujo.submit",
        "task/revoke/x",
    ):
        assert (await asyncio.to_thread(watched.ask, f"/api/{path}", PASSWORD, "POST"))[0] in (403, 404, 405), path
    assert (await (await client.submit("digest", {"url": "abc"})).result(TIMEOUT_S)).success
    assert "NOPERM" not in watched.fleet.logs_whole()

    await asyncio.to_thread(_assert_no_rights, watched.url("flower"), client, run_id)


async def _shown_run(watched: Watched, client: AsyncFlujoClient) -> str:
    """A run all of whose steps Flower shows: it has to switch events on first."""
    run_ids: list[str] = []

    async def shown() -> list[str]:
        run = await client.submit("digest", {"url": SECRET})
        await run.result(TIMEOUT_S)
        run_ids.append(run.run_id)
        done = [
            task["root_id"] for task in (await asyncio.to_thread(watched.tasks)).values() if task["state"] == "SUCCESS"
        ]
        return [run_id for run_id in run_ids if done.count(run_id) == 4]

    found: list[str] = await watched.fleet.until(shown, "Flower shows a run's steps")
    return found[0]


def _assert_no_rights(url: str, client: AsyncFlujoClient, run_id: str) -> None:
    """Its user can read no value of a run, and change no run, in whatever way."""
    keys, script = client.keyspace.run(run_id), "return redis.call('HGETALL', KEYS[1])"
    commands: list[tuple[Any, ...]] = [
        ("HGETALL", keys.payloads),
        ("HGETALL", keys.run),
        ("XRANGE", keys.events, "-", "+"),
        ("EVAL", script, 1, keys.payloads),
        ("DUMP", keys.payloads),
        ("COPY", keys.payloads, "flujo.default"),
        ("HSET", keys.run, "gate", "cancelled"),
        ("DEL", keys.run),
        ("XADD", keys.events, "*", "kind", "succeeded"),
        ("ZADD", client.keyspace.shard("dirty"), 0, run_id),
        ("FLUSHALL",),
        ("MONITOR",),
        ("CONFIG", "GET", "*"),
        ("ACL", "LIST"),
    ]
    with redis.Redis.from_url(url) as flower:
        for command in commands:
            with pytest.raises(redis.exceptions.NoPermissionError):
                flower.execute_command(*command)
