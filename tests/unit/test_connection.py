"""`check_server`: whether a Redis may hold runs, asked of real ones."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis

from flujo_client.cli.redis_server import RedisServer, free_port
from flujo_client.protocol.connection import (
    RedisClient,
    agree_on_shards,
    check_server,
    connect,
    connect_blocking,
    hash_reader,
)
from flujo_client.protocol.errors import SettingsError, StateUnavailableError, UnsafeRedisError
from flujo_client.protocol.keys import Keyspace


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server of this module's own, to be reconfigured at will."""
    with RedisServer(tmp_path_factory.mktemp("connection")) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client; when it goes, the server is configured as it should be."""
    with redis.Redis.from_url(server.url) as client:
        yield client
        for name, value in {"maxmemory": "0", "maxmemory-policy": "noeviction"}.items():
            client.config_set(name, value)


@pytest.fixture(params=[connect, connect_blocking])
async def client(server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[RedisClient]:
    connected = request.param(server.url)
    yield connected
    await connected.aclose()


async def test_a_redis_that_keeps_everything_passes_in_silence(
    client: RedisClient, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await check_server(client, server.url)

    assert caplog.messages == []


async def test_a_redis_that_may_evict_keys_is_refused(client: RedisClient, admin: redis.Redis) -> None:
    admin.config_set("maxmemory", "1gb")
    admin.config_set("maxmemory-policy", "allkeys-lru")

    with pytest.raises(UnsafeRedisError, match=r"redis://host:1/0 has maxmemory-policy allkeys-lru.*noeviction"):
        await check_server(client, "redis://user:secret@host:1/0")


async def test_a_limit_without_eviction_passes(
    client: RedisClient, admin: redis.Redis, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    admin.config_set("maxmemory", "1gb")

    await check_server(client, server.url)

    assert caplog.messages == []


async def test_a_policy_that_would_evict_once_there_is_a_limit_is_warned_of(
    client: RedisClient, admin: redis.Redis, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    admin.config_set("maxmemory-policy", "volatile-lru")

    await check_server(client, server.url)

    (record,) = caplog.records
    assert (record.levelno, "set maxmemory-policy noeviction" in record.message) == (logging.WARNING, True)


async def test_a_redis_without_an_append_only_file_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, options=("--appendonly", "no")) as forgetful:
        client = connect(forgetful.url)
        await check_server(client, forgetful.url)
        await client.aclose()

    (record,) = caplog.records
    assert (record.levelno, "since its last snapshot is lost" in record.message) == (logging.WARNING, True)


async def test_a_user_who_may_not_read_the_configuration_is_taken_at_his_word(
    server: RedisServer, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    admin.acl_setuser("plain", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
    client = connect(server.url.replace("://", "://plain:any@"))

    await check_server(client, server.url)

    await client.aclose()


async def test_a_missing_append_only_file_is_warned_of_also_where_the_configuration_may_not_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, options=("--appendonly", "no")) as forgetful:
        with redis.Redis.from_url(forgetful.url) as admin:
            admin.acl_setuser("plain", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
        client = connect(forgetful.url.replace("://", "://plain:any@"))
        await check_server(client, forgetful.url)
        await client.aclose()

    assert ["since its last snapshot is lost" in message for message in caplog.messages] == [True]


async def test_a_user_who_may_not_ask_anything_is_taken_at_his_word(
    server: RedisServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    admin.acl_setuser("mute", enabled=True, nopass=True, commands=["+@all", "-config", "-info"], keys=["*"])
    client = connect(server.url.replace("://", "://mute:any@"))

    await check_server(client, server.url)

    assert caplog.messages == []
    await client.aclose()


@pytest.mark.parametrize("user", ["", "nobody:secret@"], ids=["not there", "refuses us"])
async def test_a_redis_that_does_not_answer_is_named_without_the_password(server: RedisServer, user: str) -> None:
    url = f"redis://{user}127.0.0.1:{server.port if user else free_port()}/0"
    client = connect(url)

    with pytest.raises(StateUnavailableError, match=r"does not answer: .*correct FLUJO_URL") as caught:
        await check_server(client, url)

    assert "secret" not in str(caught.value)
    await client.aclose()


async def test_every_process_of_a_namespace_has_the_same_number_of_shards(client: RedisClient) -> None:
    await agree_on_shards(client, Keyspace("agreed", shards=2))
    await agree_on_shards(client, Keyspace("agreed", shards=2))

    with pytest.raises(SettingsError, match=r"FLUJO_SHARDS is 3 here, and namespace agreed has 2\..*FLUJO_SHARDS=2"):
        await agree_on_shards(client, Keyspace("agreed", shards=3))


async def test_a_namespace_of_a_release_that_did_not_say_has_one_shard(client: RedisClient, admin: redis.Redis) -> None:
    admin.hset(Keyspace("older").shard("pipelines"), "digest", "hash")

    with pytest.raises(SettingsError, match="namespace older has 1"):
        await agree_on_shards(client, Keyspace("older", shards=2))

    await agree_on_shards(client, Keyspace("older"))


async def test_a_redis_that_is_away_says_nothing_of_shards() -> None:
    away = connect_blocking(f"redis://127.0.0.1:{free_port()}")

    with pytest.raises(StateUnavailableError):
        await agree_on_shards(away, Keyspace("away"))

    await away.aclose()


def test_fields_are_read_at_once_and_a_redis_that_is_away_is_named(admin: redis.Redis, server: RedisServer) -> None:
    admin.hset("h", "a", "1")

    assert hash_reader(server.url)("h", ["a", "b"]) == [b"1", None]
    with pytest.raises(StateUnavailableError, match="Redis does not answer"):
        hash_reader(f"redis://localhost:{free_port()}")("h", ["a"])
