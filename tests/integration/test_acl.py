"""A fleet under the Redis users of `deploy/users.acl`: each role can do what it does, and not what others do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from flujo_client import AsyncFlujoClient, Settings, UsageLimits
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet


def _url(fleet: Fleet, role: str) -> str:
    return fleet.url.replace("redis://", f"redis://flujo-{role}:change-me-{role}@")


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file, where a redis-server may write beside it."""
    copy = tmp_path_factory.mktemp("acl") / "users.acl"
    copy.write_text((ROOT / "deploy/users.acl").read_text())
    return copy


@pytest.fixture(scope="module")
def guarded(make_fleet: Callable[..., Fleet], users: Path) -> Fleet:
    """A manager and a worker, each as its own user."""
    fleet = make_fleet("acl", "--aclfile", str(users))
    fleet.manager(FLUJO_URL=_url(fleet, "manager"))
    fleet.worker(FLUJO_URL=_url(fleet, "worker"))
    return fleet


async def test_a_fleet_runs_under_users_of_its_roles(guarded: Fleet) -> None:
    async with AsyncFlujoClient(settings=Settings(url=_url(guarded, "client"))) as client:
        await guarded.published(client, "digest")
        runs = [
            await client.submit("digest", {"url": "abc"}, usage_limits=UsageLimits(total_tokens_limit=100)),
            await client.submit("sharing", 2, usage_limits=UsageLimits(total_tokens_limit=100)),
        ]
        for run in runs:
            assert (await run.result(TIMEOUT_S)).success
            assert [event async for event in run.events()]
        cancelled = await client.submit("holding", "never")
        assert await cancelled.cancel()
        warnings = [line for line in guarded.logs().splitlines() if "NOPERM" in line]
        assert warnings == []


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("client", ("LPUSH", "flujo.default", "a forged message")),
        ("client", ("LRANGE", "flujo.default", "0", "-1")),
        ("client", ("FLUSHALL",)),
        ("client", ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")),
        ("manager", ("SMEMBERS", "_kombu.binding.celery.pidbox")),
        ("worker", ("FLUSHALL",)),
        ("worker", ("KEYS", "*")),
        ("flower", ("HGETALL", "{flujo:0}:run:any:payloads")),
        ("flower", ("HSET", "{flujo:0}:run:any:record", "gate", "cancelled")),
        ("default", ("GET", "{flujo:0}:run:any:record")),
    ],
    ids=lambda words: words if isinstance(words, str) else " ".join(words[:2]),
)
async def test_a_role_cannot_do_what_is_not_its_own(guarded: Fleet, role: str, command: tuple[str, ...]) -> None:
    url = guarded.url if role == "default" else _url(guarded, role)

    def asked() -> Any:
        with redis.Redis.from_url(url) as client:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's stubs

    with pytest.raises(redis.exceptions.NoPermissionError):
        await asyncio.to_thread(asked)
