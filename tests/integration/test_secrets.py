"""A fleet under the Redis users of `deploy/users.acl`, with payloads encrypted and messages signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.fernet import Fernet
from pydantic import SecretStr

from flujo_client import AsyncFlujoClient, Settings, UsageLimits
from flujo_client.protocol.messages import StepMessage, StepRef
from flujo_client.protocol.wire import Wire
from flujo_client.publisher import RedisPublisher
from tests.integration.conftest import ROOT, TIMEOUT_S, Fleet

KEY = Fernet.generate_key().decode()


def _client(fleet: Fleet) -> AsyncFlujoClient:
    return AsyncFlujoClient(settings=Settings(url=_url(fleet, "client"), payload_keys=SecretStr(KEY)))


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
    fleet = make_fleet("acl", "--aclfile", str(users), FLUJO_PAYLOAD_KEYS=KEY, FLUJO_MESSAGE_KEYS="one, two")
    fleet.manager(FLUJO_URL=_url(fleet, "manager"))
    fleet.worker(FLUJO_URL=_url(fleet, "worker"))
    return fleet


async def test_a_fleet_runs_under_users_of_its_roles(guarded: Fleet) -> None:
    async with _client(guarded) as client:
        for pipeline in ("digest", "sharing", "holding"):
            await guarded.published(client, pipeline)
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
            return client.execute_command(*command)

    with pytest.raises(redis.exceptions.NoPermissionError):
        await asyncio.to_thread(asked)


async def test_nobody_reads_payloads_without_the_key(guarded: Fleet) -> None:
    async with _client(guarded) as client:
        await guarded.published(client, "digest")
        run = await client.submit("digest", {"url": "a-secret-word"})
        assert (await run.result(TIMEOUT_S)).output == {"text": "A-SECRET-WORD 13"}

        stored = await client.client.hgetall(client.keyspace.run(run.run_id).payloads)
        assert b"secret" not in b"".join(stored.values()).lower()


async def test_a_forged_message_is_refused_and_the_run_goes_on(guarded: Fleet) -> None:
    async with _client(guarded) as client:
        await guarded.published(client, "holding")
        run = await client.submit("holding", "forged", run_id="forged")
        await guarded.started("forged", "0")
        ref = StepRef(run_id="forged", path="1", attempt=1, function="tests.integration.pipelines:after", owner="pool")
        wire = Wire(_url(guarded, "manager"))
        publisher = RedisPublisher(wire, "flujo", ["not the key"])
        await publisher.publish([publisher.prepare(StepMessage(queue="default", steps=(ref,)))])
        await guarded.until(lambda: "message refused" in guarded.logs(), "the forged message is refused")
        await wire.close()
        guarded.open_gate("forged")

        assert (await run.result(TIMEOUT_S)).output == "after forged"


async def test_no_process_tells_a_secret(guarded: Fleet) -> None:
    logs = guarded.logs()

    for secret in (KEY, "change-me-manager", "change-me-worker", "a-secret-word"):
        assert secret not in logs
