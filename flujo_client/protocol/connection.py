"""Connections to the Redis that holds the runs, and the check that it may hold them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError, ResponseError

from flujo_client.protocol.errors import SettingsError, StateUnavailableError, UnsafeRedisError
from flujo_client.protocol.keys import Keyspace

__all__ = ["RedisClient", "agree_on_shards", "check_server", "connect", "connect_blocking", "hash_reader"]

logger = logging.getLogger(__name__)

#: redis-py's asyncio client with replies as bytes. Its own annotations give each command the union of every reply that
#: any setting could make, which fits no single call.
RedisClient = Any


def connect(url: str) -> RedisClient:
    """A client for commands and scripts: each answered within 5 s or repeated, three times at the most.

    Scripts may be repeated because every one of them is idempotent.
    """
    return aioredis.Redis.from_url(
        url,
        socket_timeout=5,
        socket_connect_timeout=5,
        socket_keepalive=True,
        health_check_interval=15,
        max_connections=5_000,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), 3),
    )


def connect_blocking(url: str) -> RedisClient:
    """A client for blocking reads of up to a few seconds."""
    return aioredis.Redis.from_url(url, socket_timeout=15, socket_connect_timeout=5, max_connections=5_000)


def hash_reader(url: str) -> Callable[[str, Sequence[str]], Sequence[bytes | None]]:
    """Reads fields of hashes at once, for code that cannot await: a thread, or an event loop, stands still meanwhile.

    Connected when it is first called, in any thread. Gives up after 2 s, and raises `StateUnavailableError` then.
    """
    client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2, socket_keepalive=True)

    def read(key: str, fields: Sequence[str]) -> Sequence[bytes | None]:
        try:
            rows: Any = client.hmget(key, list(fields))
        except (RedisError, OSError) as error:
            raise StateUnavailableError(
                f"Redis does not answer: {str(error).rstrip('.')}.", suggestion="The step is tried again."
            ) from error
        return list(rows)

    return read


async def check_server(client: RedisClient, url: str) -> None:
    """Make sure that a Redis answers and keeps what it is given.

    Warns where it has no append-only file: a crash of Redis then loses every run since its last snapshot.

    Raises:
        StateUnavailableError: It does not answer.
        UnsafeRedisError: It may evict keys.
    """
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise StateUnavailableError(
            f"Redis at {_without_password(url)} does not answer: {str(error).rstrip('.')}.",
            suggestion="Start it, or correct FLUJO_URL. `flujo up` starts one by itself.",
        ) from error
    memory, persistence = await _told(client.config_get("maxmemory*")), await _told(client.info("persistence"))
    if int(memory.get("maxmemory", 0)) and memory.get("maxmemory-policy") != "noeviction":
        raise UnsafeRedisError(
            f"Redis at {_without_password(url)} has maxmemory-policy {memory['maxmemory-policy']}: it would throw committed steps away.",
            suggestion="Set maxmemory-policy noeviction.",
        )
    if memory.get("maxmemory-policy", "noeviction") != "noeviction":
        logger.warning("Redis would evict keys once maxmemory is set; set maxmemory-policy noeviction")
    if persistence and not persistence.get("aof_enabled"):
        logger.warning(
            "Redis has no append-only file: if it crashes, every run since its last snapshot is lost and paid again; set appendonly yes"
        )


async def agree_on_shards(client: RedisClient, keyspace: Keyspace) -> None:
    """Make sure that a namespace has as many shards as this process thinks; whoever comes first says how many.

    A process that thought otherwise would look for runs, and store them, where nobody else does. A namespace of a
    release that did not say has one.

    Raises:
        SettingsError: It has another number.
        StateUnavailableError: Redis does not answer.
    """
    key = keyspace.shard("layout")
    try:
        if not await client.hexists(key, "shards"):
            older = keyspace.shards > 1 and await client.exists(keyspace.shard("pipelines"))
            await client.hsetnx(key, "shards", 1 if older else keyspace.shards)
        stored = int(await client.hget(key, "shards"))
    except (RedisError, OSError) as error:
        raise StateUnavailableError(
            f"Redis does not answer: {str(error).rstrip('.')}.", suggestion="Call again."
        ) from error
    if stored != keyspace.shards:
        raise SettingsError(
            f"FLUJO_SHARDS is {keyspace.shards} here, and namespace {keyspace.namespace} has {stored}.",
            suggestion=f"Set FLUJO_SHARDS={stored}, or take a new FLUJO_NAMESPACE: where a run lies follows from this number.",
        )


async def _told(answer: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """What a server tells of itself; nothing where its host, or this user's rights, forbid the question."""
    try:
        return await answer
    except ResponseError:
        return {}


def _without_password(url: str) -> str:
    """Where a server is: passwords stand before the host, and may stand in the options as well."""
    scheme, separator, rest = url.partition("?")[0].partition("://")
    return scheme + separator + rest.rpartition("@")[2]
